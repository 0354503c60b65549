# A log sink, its topic, the push subscription on it, and where messages go that could not be delivered.

locals {
  week      = "604800s"
  fortnight = "1209600s"
}

resource "google_pubsub_topic" "this" {
  project      = var.project
  name         = "${var.name}-topic"
  kms_key_name = var.kms_key_name
  labels       = var.labels

  dynamic "message_storage_policy" {
    for_each = length(var.message_storage_regions) > 0 ? [1] : []

    content {
      allowed_persistence_regions = var.message_storage_regions
    }
  }
}

resource "google_pubsub_subscription" "push" {
  project = var.project
  name    = "${var.name}-subscription"
  topic   = google_pubsub_topic.this.id
  labels  = var.labels

  # Also how long an answer may take. The exporter gives up on a commit after 20 s.
  ack_deadline_seconds       = 30
  message_retention_duration = local.week

  # Without this, a subscription is deleted that had nothing to deliver for 31 days.
  expiration_policy {
    ttl = ""
  }

  push_config {
    push_endpoint = var.push_endpoint

    oidc_token {
      service_account_email = var.push_service_account
      audience              = var.audience
    }
  }

  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }

  # Every delivery that is not acknowledged is an attempt, an outage's too: 100 last some 16 hours, 5 would
  # last minutes.
  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.dead_letter.id
    max_delivery_attempts = 100
  }
}

# It keeps its messages itself, so that a subscription that is made later can go back to them.
resource "google_pubsub_topic" "dead_letter" {
  project                    = var.project
  name                       = "${var.name}-dead-letter-topic"
  kms_key_name               = var.kms_key_name
  message_retention_duration = local.fortnight
  labels                     = var.labels

  dynamic "message_storage_policy" {
    for_each = length(var.message_storage_regions) > 0 ? [1] : []

    content {
      allowed_persistence_regions = var.message_storage_regions
    }
  }
}

# To look at. Nothing takes messages from it but people.
resource "google_pubsub_subscription" "dead_letter" {
  project = var.project
  name    = "${var.name}-dead-letter-subscription"
  topic   = google_pubsub_topic.dead_letter.id
  labels  = var.labels

  ack_deadline_seconds       = 30
  message_retention_duration = local.fortnight

  expiration_policy {
    ttl = ""
  }
}

# What was counted before is a duplicate to the exporter, so that replaying too much does no harm.
resource "google_pubsub_subscription" "replay" {
  count = var.replay ? 1 : 0

  project = var.project
  name    = "${var.name}-replay-subscription"
  topic   = google_pubsub_topic.dead_letter.id
  labels  = var.labels

  ack_deadline_seconds       = 30
  message_retention_duration = local.fortnight

  expiration_policy {
    ttl = ""
  }

  push_config {
    push_endpoint = var.push_endpoint

    oidc_token {
      service_account_email = var.push_service_account
      audience              = var.audience
    }
  }

  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }
}

# Pub/Sub itself moves a dead letter: it publishes the message there and acknowledges it here.
resource "google_pubsub_topic_iam_member" "dead_letter" {
  project = var.project
  topic   = google_pubsub_topic.dead_letter.name
  role    = "roles/pubsub.publisher"
  member  = var.pubsub_agent
}

resource "google_pubsub_subscription_iam_member" "dead_letter" {
  project      = var.project
  subscription = google_pubsub_subscription.push.name
  role         = "roles/pubsub.subscriber"
  member       = var.pubsub_agent
}
