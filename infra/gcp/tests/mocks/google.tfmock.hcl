# Mock answers of Google's APIs, with the values that the tests check.

mock_data "google_project" {
  defaults = {
    number = "408213775019"
  }
}

mock_resource "google_service_account" {
  defaults = {
    email  = "account@example-project.iam.gserviceaccount.com"
    member = "serviceAccount:account@example-project.iam.gserviceaccount.com"
    name   = "projects/example-project/serviceAccounts/account@example-project.iam.gserviceaccount.com"
  }
}

mock_resource "google_pubsub_topic" {
  defaults = {
    id = "projects/example-project/topics/topic"
  }
}

mock_resource "google_logging_project_sink" {
  defaults = {
    writer_identity = "serviceAccount:service-1@gcp-sa-logging.iam.gserviceaccount.com"
  }
}

mock_resource "google_logging_folder_sink" {
  defaults = {
    writer_identity = "serviceAccount:service-folder-2@gcp-sa-logging.iam.gserviceaccount.com"
  }
}

mock_resource "google_logging_organization_sink" {
  defaults = {
    writer_identity = "serviceAccount:service-org-3@gcp-sa-logging.iam.gserviceaccount.com"
  }
}

mock_resource "google_memorystore_instance" {
  defaults = {
    endpoints = [{
      connections = [
        { psc_auto_connection = [{ connection_type = "CONNECTION_TYPE_READER", ip_address = "10.0.0.3", port = 6379 }] },
        { psc_auto_connection = [{ connection_type = "CONNECTION_TYPE_PRIMARY", ip_address = "10.0.0.2", port = 6379 }] },
      ]
    }]
    managed_server_ca = [{
      ca_certs = [{ certificates = ["leaf", "root"] }]
    }]
  }
}
