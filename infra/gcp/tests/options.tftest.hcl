# The whole configuration with options: several projects, a folder, pull, replay, and Valkey.

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
    projects     = ["shop-project", "till-project"]
    sink_parents = ["folders/123456789012"]
  }

  assert {
    condition     = length(google_project_iam_member.list_instances) == 2
    error_message = "Only the named projects should be listed, whatever the sink covers."
  }

  # A folder's log has only the folder's own entries, not those of the projects in it.
  assert {
    condition     = length(regexall("gcloud logging read '[^']+' --project=shop-project ", output.verify_commands)) == 2
    error_message = "The verify command should read the log of a project."
  }
}

run "pull" {
  variables {
    delivery      = "pull"
    push_endpoint = null
    projects      = ["shop-project", "till-project"]
  }

  assert {
    condition = yamldecode(output.exporter_config) == {
      projects = ["shop-project", "till-project"]
      pubsub = {
        delivery                                = "pull"
        instance_creation_subscription_name     = "projects/example-project/subscriptions/sie-creation-subscription"
        instance_interruption_subscription_name = "projects/example-project/subscriptions/sie-interruption-subscription"
      }
    }
    error_message = "The exporter should pull from subscriptions that are in another project than the instances."
  }

  assert {
    condition = (
      length(google_service_account.push) == 0
      && length(google_service_account_iam_member.push_tokens) == 0
      && output.push_service_account_email == null
    )
    error_message = "Nobody should push."
  }

  assert {
    condition     = !strcontains(output.dead_letter_commands, "kubectl")
    error_message = "Without replay, the commands should only read dead letters."
  }
}

run "replay_with_pull" {
  variables {
    delivery      = "pull"
    push_endpoint = null
    replay        = true
  }

  assert {
    condition = (
      strcontains(output.dead_letter_commands, "kubectl -n spot-interruption-exporter set env statefulset/spot-interruption-exporter")
      && alltrue([
        for stream in ["creation", "interruption"] : strcontains(
          output.dead_letter_commands,
          " SIE_PUBSUB__INSTANCE_${upper(stream)}_SUBSCRIPTION_NAME=projects/example-project/subscriptions/sie-${stream}-dead-letter-subscription",
        )
      ])
    )
    error_message = "The commands should let the exporter pull the dead letters."
  }
}

run "known_project_number" {
  variables {
    project_number = "123456789012"
  }

  assert {
    condition     = length(data.google_project.this) == 0
    error_message = "Nothing should be looked up, so that the Cloud Billing API is not needed."
  }

  assert {
    condition     = google_service_account_iam_member.push_tokens[0].member == "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com"
    error_message = "Pub/Sub's agent should have this number."
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
    condition     = output.valkey_url == "rediss://10.0.0.2:6379/0?ssl_ca_certs=/etc/spot-interruption-exporter-store/valkey-ca.pem&ssl_check_hostname=false"
    error_message = "The store URL should name the primary and the certificate authority."
  }

  assert {
    condition     = !can(yamldecode(output.exporter_config).store)
    error_message = "The exporter should read the URL from the Secret only."
  }

  assert {
    condition     = output.valkey_ca_certificates == "leaf\nroot"
    error_message = "The output should have the certificate authorities."
  }

  assert {
    condition     = length(google_project_service.this) == 8
    error_message = "The APIs of Valkey should be enabled."
  }

  assert {
    condition = (
      google_project_service.network[0].project == "net-project"
      && google_project_service.network[0].service == "networkconnectivity.googleapis.com"
      && !google_project_service.network[0].disable_on_destroy
    )
    error_message = "The policy's API should be enabled in the network's project."
  }
}

run "valkey_in_a_network_of_the_same_project" {
  variables {
    valkey = {
      region      = "europe-west1"
      network     = "projects/example-project/global/networks/default"
      subnetworks = ["projects/example-project/regions/europe-west1/subnetworks/default"]
    }
  }

  assert {
    condition     = length(google_project_service.network) == 0 && length(google_project_service.this) == 8
    error_message = "An API should be enabled once."
  }
}

run "valkey_without_apis" {
  variables {
    enable_apis = false
    valkey = {
      region      = "europe-west1"
      network     = "projects/net-project/global/networks/shared"
      subnetworks = ["projects/net-project/regions/europe-west1/subnetworks/psc"]
    }
  }

  assert {
    condition     = length(google_project_service.network) == 0
    error_message = "No API should be enabled."
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
    condition     = length(google_network_connectivity_service_connection_policy.valkey) == 0 && length(google_project_service.network) == 0 && length(google_memorystore_instance.this) == 1
    error_message = "Without subnetworks, no policy should be created."
  }
}
