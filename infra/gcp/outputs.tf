locals {
  # To pull, the exporter needs whole names: the subscriptions may be in another project than the instances.
  subscription_prefix = var.delivery == "pull" ? "projects/${var.project_id}/subscriptions/" : ""
  configured_subscriptions = {
    for name, stream in module.event_stream : name => "${local.subscription_prefix}${stream.subscription}"
  }
}

output "exporter_config" {
  description = "the parts of the exporter's configuration file that depend on these resources"
  value = templatefile("${path.module}/templates/exporter-config.yaml.tftpl", {
    projects                  = local.projects
    creation_subscription     = local.configured_subscriptions["creation"]
    interruption_subscription = local.configured_subscriptions["interruption"]
    delivery                  = var.delivery
    audience                  = local.audience
    service_account_email     = one(google_service_account.push[*].email)
  })

  precondition {
    condition     = var.delivery == "pull" || var.push_endpoint != null
    error_message = "push_endpoint is required, because delivery is push."
  }

  precondition {
    condition     = var.delivery == "push" || (var.push_endpoint == null && var.audience == null)
    error_message = "push_endpoint and audience should not be set, because delivery is pull."
  }
}

output "kubernetes_service_account_annotation" {
  description = "the annotation of the exporter's Kubernetes service account"
  value       = "iam.gke.io/gcp-service-account: ${google_service_account.exporter.email}"
}

output "push_service_account_email" {
  description = "the e-mail address of the service account that pushes; null with pull"
  value       = one(google_service_account.push[*].email)
}

output "exporter_service_account_email" {
  description = "the e-mail address of the service account that the exporter lists instances and pulls with"
  value       = google_service_account.exporter.email
}

output "topics" {
  description = "the topics, by stream"
  value       = { for name, stream in module.event_stream : name => stream.topic }
}

output "subscriptions" {
  description = "the subscriptions of the exporter, by stream"
  value       = { for name, stream in module.event_stream : name => stream.subscription }
}

output "dead_letter_topics" {
  description = "the dead-letter topics, by stream"
  value       = { for name, stream in module.event_stream : name => stream.dead_letter_topic }
}

output "dead_letter_subscriptions" {
  description = "the pull subscriptions on the dead-letter topics, by stream"
  value       = { for name, stream in module.event_stream : name => stream.dead_letter_subscription }
}

output "valkey_url" {
  description = "the store's URL, for `store.url_file`; empty without Valkey"
  value       = local.valkey_url
}

output "valkey_ca_certificates" {
  description = "the certificate authorities of Valkey, for the file that the store's URL names; empty without Valkey"
  value = join("\n", flatten([
    for instance in google_memorystore_instance.this : [
      for authority in instance.managed_server_ca : [for chain in authority.ca_certs : chain.certificates]
    ]
  ]))
}

output "verify_commands" {
  description = "commands that verify each part; they change no count"
  value = join("\n", concat(
    flatten([
      for name, stream in module.event_stream : [
        "# ${name}: read a matching log entry, then publish a message. The exporter acknowledges and ignores it.",
        "gcloud logging read '${replace(trimspace(local.streams[name].filter), "/\\s+/", " ")}' --project=${local.projects[0]} --freshness=7d --limit=1",
        "gcloud pubsub topics publish ${stream.topic} --project=${var.project_id} --message='{\"protoPayload\": {\"methodName\": \"verify\"}}'",
      ]
    ]),
    [""],
  ))
}

output "dead_letter_commands" {
  description = "commands that read the dead letters; with replay also commands that deliver them again"
  value = join("\n", concat(
    flatten([
      for name, stream in module.event_stream : concat(
        ["gcloud pubsub subscriptions pull ${stream.dead_letter_subscription} --project=${var.project_id} --limit=10"],
        [
          for subscription in stream.replay_subscriptions :
          "gcloud pubsub subscriptions seek ${subscription} --project=${var.project_id} --time=-p14d"
        ],
      )
    ]),
    # The exporter pulls the dead letters until these variables are removed.
    var.replay && var.delivery == "pull" ? [
      join(" ", concat(
        ["kubectl -n ${var.kubernetes_namespace} set env statefulset/spot-interruption-exporter"],
        [
          for name, stream in module.event_stream :
          "SIE_PUBSUB__INSTANCE_${upper(name)}_SUBSCRIPTION_NAME=${local.subscription_prefix}${stream.dead_letter_subscription}"
        ],
      ))
    ] : [],
    [""],
  ))
}
