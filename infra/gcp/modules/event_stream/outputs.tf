output "topic" {
  description = "the topic's name"
  value       = google_pubsub_topic.this.name
}

output "subscription" {
  description = "the subscription's name"
  value       = google_pubsub_subscription.this.name
}

output "dead_letter_topic" {
  description = "the dead-letter topic's name"
  value       = google_pubsub_topic.dead_letter.name
}

output "dead_letter_subscription" {
  description = "the name of the pull subscription on the dead-letter topic"
  value       = google_pubsub_subscription.dead_letter.name
}

output "replay_subscriptions" {
  description = "the names of the push subscriptions on the dead-letter topic; a single name, or empty without replay or push"
  value       = google_pubsub_subscription.replay[*].name
}

output "sinks" {
  description = "the ids of the sinks, by parent"
  value = merge(
    { for project, sink in google_logging_project_sink.this : "projects/${project}" => sink.id },
    { for folder, sink in google_logging_folder_sink.this : "folders/${folder}" => sink.id },
    { for org, sink in google_logging_organization_sink.this : "organizations/${org}" => sink.id },
  )
}
