# An example to copy: Pub/Sub pushes to the exporter.
# Outside of the checkout, name the module by address and tag:
#   source = "git::https://git.example.com/spot-interruption-exporter.git//infra/gcp?ref=v1.0.0"

terraform {
  required_version = ">= 1.5.0"

  required_providers {
    google = {
      source = "hashicorp/google"
    }
  }
}

provider "google" {
  project = "example-project"
}

module "spot_interruption_exporter" {
  source = "../.."

  project_id    = "example-project"
  push_endpoint = "https://sie.example.com"
}
