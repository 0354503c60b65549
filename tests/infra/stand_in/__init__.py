"""A stand-in for Terraform's google provider: the schemas of the types in use, and nothing else."""
