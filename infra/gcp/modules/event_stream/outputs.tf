output "topic" {
  description = "the topic's name"
  value       = google_pubsub_topic.this.name
}

output "subscription" {
  description = "the push subscription's name"
  value       = google_pubsub_subscription.push.name
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
  description = "the names of the push subscriptions on the dead-letter topic; a single name, or empty without replay"
  value       = google_pubsub_subscription.replay[*].name
}
