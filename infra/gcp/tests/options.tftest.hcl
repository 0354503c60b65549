# The whole configuration with options: several projects, a folder, replay, and Valkey.

mock_provider "google" {
  source = "./tests/mocks"
}

variables {
  project_id    = "example-project"
  push_endpoint = "https://sie.example.com"
}

run "several_projects" {
  variables {
    projects = ["shop-project", "till-project"]
  }

  assert {
    condition     = yamldecode(output.exporter_config).projects == ["shop-project", "till-project"] && !can(yamldecode(output.exporter_config).project_name)
    error_message = "The exporter should list each project."
  }

  assert {
    condition = alltrue([
      for project in ["shop-project", "till-project"] :
      google_project_iam_custom_role.list_instances[project].project == project
      && google_project_iam_member.list_instances[project].project == project
    ]) && length(google_project_iam_member.list_instances) == 2
    error_message = "The exporter should be allowed to list these projects only."
  }
}

run "everything_below_a_folder" {
  variables {
    projects    = ["shop-project", "till-project"]
    sink_parent = "folders/123456789012"
  }

  assert {
    condition     = length(google_project_iam_member.list_instances) == 2
    error_message = "Only the named projects should be listed, whatever the sink covers."
  }

  assert {
    condition     = length(regexall("gcloud logging read '[^']+' --folder=123456789012 ", output.verify_commands)) == 2
    error_message = "The verify command should read the folder's log."
  }
}

run "everything_below_an_organisation" {
  variables {
    sink_parent = "organizations/210987654321"
  }

  assert {
    condition     = length(regexall("gcloud logging read '[^']+' --organization=210987654321 ", output.verify_commands)) == 2
    error_message = "The verify command should read the organisation's log."
  }
}

run "replay" {
  variables {
    replay = true
  }

  assert {
    condition = alltrue([
      for stream in ["creation", "interruption"] :
      strcontains(output.dead_letter_commands, "gcloud pubsub subscriptions seek sie-${stream}-replay-subscription --project=example-project --time=-p14d")
    ])
    error_message = "The commands should seek the replay subscription to messages older than itself."
  }
}

run "valkey" {
  variables {
    valkey = {
      region      = "europe-west1"
      network     = "projects/net-project/global/networks/shared"
      subnetworks = ["projects/net-project/regions/europe-west1/subnetworks/psc"]
    }
  }

  assert {
    condition = (
      google_memorystore_instance.this[0].persistence_config[0].mode == "AOF"
      && google_memorystore_instance.this[0].persistence_config[0].aof_config[0].append_fsync == "ALWAYS"
      && google_memorystore_instance.this[0].engine_configs == tomap({ maxmemory-policy = "noeviction" })
    )
    error_message = "Acknowledged writes should be on disk and never evicted."
  }

  assert {
    condition = (
      google_memorystore_instance.this[0].mode == "CLUSTER_DISABLED"
      && google_memorystore_instance.this[0].shard_count == 1
      && google_memorystore_instance.this[0].replica_count == 1
      && google_memorystore_instance.this[0].zone_distribution_config[0].mode == "MULTI_ZONE"
      && google_memorystore_instance.this[0].deletion_protection_enabled
    )
    error_message = "There should be two nodes in two zones, protected from deletion."
  }

  assert {
    condition = (
      google_memorystore_instance.this[0].transit_encryption_mode == "SERVER_AUTHENTICATION"
      && google_memorystore_instance.this[0].desired_auto_created_endpoints[0].network == "projects/net-project/global/networks/shared"
      && google_memorystore_instance.this[0].desired_auto_created_endpoints[0].project_id == "example-project"
    )
    error_message = "Valkey should use TLS, in the named network."
  }

  assert {
    condition = (
      google_network_connectivity_service_connection_policy.valkey[0].service_class == "gcp-memorystore"
      && google_network_connectivity_service_connection_policy.valkey[0].project == "net-project"
      && google_network_connectivity_service_connection_policy.valkey[0].psc_config[0].subnetworks == tolist(["projects/net-project/regions/europe-west1/subnetworks/psc"])
    )
    error_message = "The policy should let Memorystore use the named subnetworks."
  }

  assert {
    condition     = yamldecode(output.exporter_config).store.url == "rediss://10.0.0.2:6379/0?ssl_ca_certs=/etc/spot-interruption-exporter/valkey-ca.pem&ssl_check_hostname=false"
    error_message = "The store URL should name the primary and the certificate authority."
  }

  assert {
    condition     = output.valkey_ca_certificates == "leaf\nroot"
    error_message = "The output should have the certificate authorities."
  }

  assert {
    condition     = length(google_project_service.this) == 8
    error_message = "The APIs of Valkey should be enabled."
  }
}

run "valkey_with_an_existing_policy" {
  variables {
    valkey = {
      region  = "europe-west1"
      network = "projects/net-project/global/networks/shared"
    }
  }

  assert {
    condition     = length(google_network_connectivity_service_connection_policy.valkey) == 0 && length(google_memorystore_instance.this) == 1
    error_message = "Without subnetworks, no policy should be created."
  }
}
