output "exporter_config" {
  description = "the parts of the exporter's configuration file that depend on these resources"
  value = templatefile("${path.module}/templates/exporter-config.yaml.tftpl", {
    projects                  = local.projects
    creation_subscription     = module.event_stream["creation"].subscription
    interruption_subscription = module.event_stream["interruption"].subscription
    audience                  = local.audience
    service_account_email     = google_service_account.push.email
    store_url                 = local.store_url
  })
}

output "kubernetes_service_account_annotation" {
  description = "the annotation of the exporter's Kubernetes service account"
  value       = "iam.gke.io/gcp-service-account: ${google_service_account.exporter.email}"
}

output "push_service_account_email" {
  description = "the e-mail address of the service account that pushes"
  value       = google_service_account.push.email
}

output "exporter_service_account_email" {
  description = "the e-mail address of the service account that the exporter uses for the Compute Engine API"
  value       = google_service_account.exporter.email
}

output "topics" {
  description = "the topics, by stream"
  value       = { for name, stream in module.event_stream : name => stream.topic }
}

output "subscriptions" {
  description = "the push subscriptions, by stream"
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

output "valkey_ca_certificates" {
  description = "the certificate authorities of Valkey, for the file that store.url names; empty without Valkey"
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
        "# ${name}: read a matching log entry, then publish a message. The exporter answers 200 and ignores it.",
        "gcloud logging read '${replace(trimspace(local.streams[name].filter), "/\\s+/", " ")}' ${local.read_from} --freshness=7d --limit=1",
        "gcloud pubsub topics publish ${stream.topic} --project=${var.project_id} --message='{\"protoPayload\": {\"methodName\": \"verify\"}}'",
      ]
    ]),
    [""],
  ))
}

output "dead_letter_commands" {
  description = "commands that read the dead letters; with replay also commands that push them again"
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
    [""],
  ))
}

locals {
  sink_parent = split("/", var.sink_parent)
  read_from = (
    local.sink_parent[0] == "folders" ? "--folder=${local.sink_parent[1]}" :
    local.sink_parent[0] == "organizations" ? "--organization=${local.sink_parent[1]}" :
    "--project=${local.projects[0]}"
  )
}
