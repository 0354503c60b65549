# Each invalid value is refused before any resource is created.

mock_provider "google" {
  source = "./tests/mocks"
}

variables {
  project_id    = "example-project"
  push_endpoint = "https://sie.example.com"
}

run "project_number" {
  command = plan

  variables {
    project_id = "408213775019"
  }

  expect_failures = [var.project_id]
}

run "project_name" {
  command = plan

  variables {
    project_id = "Example Project"
  }

  expect_failures = [var.project_id]
}

run "project_too_short" {
  command = plan

  variables {
    project_id = "shop"
  }

  expect_failures = [var.project_id]
}

run "plain_http" {
  command = plan

  variables {
    push_endpoint = "http://sie.example.com"
  }

  expect_failures = [var.push_endpoint]
}

run "slash_at_the_end" {
  command = plan

  variables {
    push_endpoint = "https://sie.example.com/"
  }

  expect_failures = [var.push_endpoint]
}

run "endpoint_with_path_of_events" {
  command = plan

  variables {
    push_endpoint = "https://sie.example.com/events"
  }

  expect_failures = [var.push_endpoint]
}

run "endpoint_with_query" {
  command = plan

  variables {
    push_endpoint = "https://sie.example.com?token=1"
  }

  expect_failures = [var.push_endpoint]
}

run "endpoint_with_password" {
  command = plan

  variables {
    push_endpoint = "https://user:secret@sie.example.com"
  }

  expect_failures = [var.push_endpoint]
}

run "listed_project_number" {
  command = plan

  variables {
    projects = ["shop-project", "408213775019"]
  }

  expect_failures = [var.projects]
}

run "listed_project_twice" {
  command = plan

  variables {
    projects = ["shop-project", "shop-project"]
  }

  expect_failures = [var.projects]
}

run "parent_without_number" {
  command = plan

  variables {
    sink_parents = ["folders/shops"]
  }

  expect_failures = [var.sink_parents]
}

run "parent_project_by_number" {
  command = plan

  variables {
    sink_parents = ["projects/123456789012"]
  }

  expect_failures = [var.sink_parents]
}

run "parent_twice" {
  command = plan

  variables {
    sink_parents = ["folders/123456789012", "folders/123456789012"]
  }

  expect_failures = [var.sink_parents]
}

run "id_as_number_of_the_project" {
  command = plan

  variables {
    project_number = "example-project"
  }

  expect_failures = [var.project_number]
}

run "another_delivery" {
  command = plan

  variables {
    delivery = "stream"
  }

  expect_failures = [var.delivery]
}

run "push_without_endpoint" {
  command = plan

  variables {
    push_endpoint = null
  }

  expect_failures = [output.exporter_config]
}

run "pull_with_endpoint" {
  command = plan

  variables {
    delivery = "pull"
  }

  expect_failures = [output.exporter_config]
}

run "pull_with_audience" {
  command = plan

  variables {
    delivery      = "pull"
    push_endpoint = null
    audience      = "spot-interruption-exporter"
  }

  expect_failures = [output.exporter_config]
}

run "prefix_with_capitals" {
  command = plan

  variables {
    prefix = "SIE"
  }

  expect_failures = [var.prefix]
}

run "prefix_with_hyphen_at_the_end" {
  command = plan

  variables {
    prefix = "sie-"
  }

  expect_failures = [var.prefix]
}

run "prefix_too_long" {
  command = plan

  variables {
    prefix = "a23456789-123456789-1"
  }

  expect_failures = [var.prefix]
}

run "prefix_of_google" {
  command = plan

  variables {
    prefix = "google"
  }

  expect_failures = [var.prefix]
}

run "label_with_capitals" {
  command = plan

  variables {
    labels = { Team = "platform" }
  }

  expect_failures = [var.labels]
}

run "label_value_with_space" {
  command = plan

  variables {
    labels = { team = "my platform" }
  }

  expect_failures = [var.labels]
}

run "audience_empty" {
  command = plan

  variables {
    audience = ""
  }

  expect_failures = [var.audience]
}

run "audience_with_space" {
  command = plan

  variables {
    audience = "two words"
  }

  expect_failures = [var.audience]
}

run "cluster_project_number" {
  command = plan

  variables {
    cluster_project_id = "408213775019"
  }

  expect_failures = [var.cluster_project_id]
}

run "namespace_with_slash" {
  command = plan

  variables {
    kubernetes_namespace = "a/b"
  }

  expect_failures = [var.kubernetes_namespace]
}

run "service_account_with_slash" {
  command = plan

  variables {
    kubernetes_service_account = "a/b"
  }

  expect_failures = [var.kubernetes_service_account]
}

run "channel_by_display_name" {
  command = plan

  variables {
    notification_channels = ["on call"]
  }

  expect_failures = [var.notification_channels]
}

run "runbook_with_a_fragment" {
  command = plan

  variables {
    runbook = "https://wiki.example.com/spot#dead-letters"
  }

  expect_failures = [var.runbook]
}

run "storage_zone" {
  command = plan

  variables {
    message_storage_regions = ["europe-west1-b"]
  }

  expect_failures = [var.message_storage_regions]
}

run "key_version" {
  command = plan

  variables {
    kms_key_name = "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"
  }

  expect_failures = [var.kms_key_name]
}

run "valkey_zone" {
  command = plan

  variables {
    valkey = { region = "europe-west1-b", network = "projects/p/global/networks/n" }
  }

  expect_failures = [var.valkey]
}

run "valkey_network_by_name" {
  command = plan

  variables {
    valkey = { region = "europe-west1", network = "default" }
  }

  expect_failures = [var.valkey]
}

run "valkey_subnetwork_by_name" {
  command = plan

  variables {
    valkey = { region = "europe-west1", network = "projects/p/global/networks/n", subnetworks = ["default"] }
  }

  expect_failures = [var.valkey]
}

run "allowed_values" {
  command = plan

  variables {
    project_id              = "example.com:shop-project"
    push_endpoint           = "https://sie.example.com:8443/exporter"
    projects                = ["shop-project", "example.com:till-project"]
    sink_parents            = ["organizations/210987654321", "projects/example.com:till-project"]
    prefix                  = "a23456789-123456789x"
    labels                  = { team = "platform", cost_centre = "" }
    audience                = "exporter"
    cluster_project_id      = "tools-project"
    notification_channels   = ["projects/example-project/notificationChannels/7"]
    message_storage_regions = ["europe-west1", "europe-north2"]
    kms_key_name            = "projects/p/locations/l/keyRings/r/cryptoKeys/k"
  }

  assert {
    condition     = length(google_service_account.exporter.account_id) == 29 && length(google_service_account.push[0].account_id) <= 30
    error_message = "With the longest prefix, the account id should still be valid."
  }
}

# Nothing exists before this plan, so Terraform has to know what it creates without the e-mail addresses of accounts.
run "allowed_first_plan_of_pull" {
  command = plan

  variables {
    delivery      = "pull"
    push_endpoint = null
    replay        = true
  }

  assert {
    condition     = length(google_service_account.push) == 0 && google_service_account.exporter.account_id == "sie-exporter"
    error_message = "Only the exporter should have an account."
  }
}
