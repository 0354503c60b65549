# The default resources: two streams, and no optional resource.
# These tests need Terraform 1.7 or later. They use only the provider's schema.

mock_provider "google" {
  source = "./tests/mocks"
}

variables {
  project_id    = "example-project"
  push_endpoint = "https://sie.example.com"
}

run "streams" {
  assert {
    condition     = output.topics == { creation = "sie-creation-topic", interruption = "sie-interruption-topic" }
    error_message = "The topics should have the names of the original exporter's topics."
  }

  assert {
    condition     = output.subscriptions == { creation = "sie-creation-subscription", interruption = "sie-interruption-subscription" }
    error_message = "The subscriptions should have the documented names."
  }

  assert {
    condition     = length(google_memorystore_instance.this) == 0 && length(google_network_connectivity_service_connection_policy.valkey) == 0
    error_message = "There should be no Valkey instance by default."
  }

  assert {
    condition     = length(google_kms_crypto_key_iam_member.pubsub) == 0
    error_message = "There should be no grant on a KMS key by default."
  }

  assert {
    condition = alltrue([
      for service in ["iam", "iamcredentials", "logging", "monitoring", "pubsub"] :
      !google_project_service.this[service].disable_on_destroy
    ]) && length(google_project_service.this) == 5
    error_message = "The APIs should be enabled, and stay enabled after a destroy."
  }

  assert {
    condition = (
      yamldecode(output.exporter_config) == {
        project_name = "example-project"
        pubsub = {
          instance_creation_subscription_name     = "sie-creation-subscription"
          instance_interruption_subscription_name = "sie-interruption-subscription"
          audience                                = "https://sie.example.com"
          service_account_email                   = output.push_service_account_email
        }
      }
    )
    error_message = "The configuration should have all required keys, and no other."
  }

  assert {
    condition     = output.valkey_url == "" && output.valkey_ca_certificates == ""
    error_message = "There should be no URL and no certificate authority without Valkey."
  }
}

run "identities" {
  assert {
    condition     = google_service_account.push[0].account_id == "sie-push" && google_service_account.exporter.account_id == "sie-exporter"
    error_message = "Pushes and listings should use different accounts."
  }

  assert {
    condition = (
      google_service_account_iam_member.push_tokens[0].service_account_id == google_service_account.push[0].name
      && google_service_account_iam_member.push_tokens[0].role == "roles/iam.serviceAccountTokenCreator"
      && google_service_account_iam_member.push_tokens[0].member == "serviceAccount:service-408213775019@gcp-sa-pubsub.iam.gserviceaccount.com"
    )
    error_message = "Pub/Sub's agent should sign tokens only as the push account."
  }

  assert {
    condition = (
      google_service_account_iam_member.workload_identity.service_account_id == google_service_account.exporter.name
      && google_service_account_iam_member.workload_identity.role == "roles/iam.workloadIdentityUser"
      && google_service_account_iam_member.workload_identity.member == "serviceAccount:example-project.svc.id.goog[spot-interruption-exporter/spot-interruption-exporter]"
    )
    error_message = "The Kubernetes service account should act only as the exporter account."
  }

  assert {
    condition = (
      toset(keys(google_project_iam_custom_role.list_instances)) == toset(["example-project"])
      && toset(google_project_iam_custom_role.list_instances["example-project"].permissions) == toset(["compute.globalOperations.list", "compute.instances.list", "compute.zoneOperations.list"])
      && google_project_iam_custom_role.list_instances["example-project"].role_id == "sie_list_instances"
    )
    error_message = "The exporter should have only the permissions to list instances and operations."
  }

  assert {
    condition = (
      google_project_iam_member.list_instances["example-project"].role == google_project_iam_custom_role.list_instances["example-project"].name
      && google_project_iam_member.list_instances["example-project"].member == google_service_account.exporter.member
      && length(google_project_iam_member.list_instances) == 1
    )
    error_message = "The role should be granted to the exporter account."
  }
}

run "alert" {
  variables {
    notification_channels = ["projects/example-project/notificationChannels/7"]
  }

  assert {
    condition = (
      strcontains(google_monitoring_alert_policy.dead_letters.conditions[0].condition_threshold[0].filter, "metric.type = \"pubsub.googleapis.com/subscription/dead_letter_message_count\"")
      && strcontains(google_monitoring_alert_policy.dead_letters.conditions[0].condition_threshold[0].filter, "one_of(\"sie-creation-subscription\", \"sie-interruption-subscription\")")
      && google_monitoring_alert_policy.dead_letters.conditions[0].condition_threshold[0].comparison == "COMPARISON_GT"
      && google_monitoring_alert_policy.dead_letters.conditions[0].condition_threshold[0].threshold_value == 0
    )
    error_message = "The first dead letter of either stream should raise an alert."
  }

  assert {
    condition     = google_monitoring_alert_policy.dead_letters.notification_channels == tolist(["projects/example-project/notificationChannels/7"])
    error_message = "The alert should notify the channels."
  }

  assert {
    condition     = strcontains(google_monitoring_alert_policy.dead_letters.documentation[0].content, "](${var.runbook}#dead-letters)")
    error_message = "The alert should link to the section on dead letters."
  }
}

run "commands_count_nothing" {
  assert {
    condition = (
      length(regexall("gcloud pubsub topics publish sie-(creation|interruption)-topic --project=example-project --message='\\{\"protoPayload\": \\{\"methodName\": \"verify\"\\}\\}'", output.verify_commands)) == 2
      && length(regexall("methodName\": \"[^\"]*compute", output.verify_commands)) == 0
    )
    error_message = "The verify commands should publish messages that the exporter ignores."
  }

  assert {
    condition     = strcontains(output.dead_letter_commands, "gcloud pubsub subscriptions pull sie-creation-dead-letter-subscription --project=example-project") && !strcontains(output.dead_letter_commands, "seek")
    error_message = "Without replay, the commands should only read dead letters."
  }
}

run "own_audience" {
  variables {
    audience = "spot-interruption-exporter"
  }

  assert {
    condition     = yamldecode(output.exporter_config).pubsub.audience == "spot-interruption-exporter"
    error_message = "The exporter and the tokens should have the same audience."
  }
}

run "without_apis" {
  variables {
    enable_apis = false
  }

  assert {
    condition     = length(google_project_service.this) == 0
    error_message = "No API should be enabled."
  }
}

run "another_cluster" {
  variables {
    cluster_project_id         = "tools-project"
    kubernetes_namespace       = "monitoring"
    kubernetes_service_account = "sie"
  }

  assert {
    condition     = google_service_account_iam_member.workload_identity.member == "serviceAccount:tools-project.svc.id.goog[monitoring/sie]"
    error_message = "The exporter should be able to run in another project's cluster."
  }
}

run "own_kms_key" {
  variables {
    kms_key_name = "projects/keys-project/locations/europe-west1/keyRings/ring/cryptoKeys/pubsub"
  }

  assert {
    condition = (
      google_kms_crypto_key_iam_member.pubsub[0].crypto_key_id == var.kms_key_name
      && google_kms_crypto_key_iam_member.pubsub[0].role == "roles/cloudkms.cryptoKeyEncrypterDecrypter"
      && google_kms_crypto_key_iam_member.pubsub[0].member == google_service_account_iam_member.push_tokens[0].member
    )
    error_message = "Pub/Sub's agent should be able to use the KMS key."
  }
}

# Two installations in a project have distinct names.
run "a_second_installation" {
  variables {
    prefix = "sie-dev"
  }

  assert {
    condition = length(setintersection(
      concat(values(output.topics), values(output.subscriptions), values(output.dead_letter_topics), values(output.dead_letter_subscriptions)),
      concat(values(run.streams.topics), values(run.streams.subscriptions), values(run.streams.dead_letter_topics), values(run.streams.dead_letter_subscriptions)),
    )) == 0
    error_message = "Both installations should have distinct topics and subscriptions."
  }

  assert {
    condition = (
      google_service_account.push[0].account_id == "sie-dev-push"
      && google_service_account.exporter.account_id == "sie-dev-exporter"
      && google_project_iam_custom_role.list_instances["example-project"].role_id == "sie_dev_list_instances"
    )
    error_message = "Both installations should have distinct accounts and roles."
  }
}
