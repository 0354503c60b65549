# An example to copy: Pub/Sub pushes to several replicas, which share a Memorystore for Valkey.
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

  valkey = {
    region      = "europe-west1"
    network     = "projects/example-project/global/networks/default"
    subnetworks = ["projects/example-project/regions/europe-west1/subnetworks/default"]
  }
}
