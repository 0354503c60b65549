# Log sinks, their topic, its subscription, and a dead-letter topic for undeliverable messages.

locals {
  week      = "604800s"
  fortnight = "1209600s"

  # The first role pulls, the second looks at the subscription.
  pull_roles = toset(var.push == null ? ["roles/pubsub.subscriber", "roles/pubsub.viewer"] : [])
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

moved {
  from = google_pubsub_subscription.push
  to   = google_pubsub_subscription.this
}

resource "google_pubsub_subscription" "this" {
  project = var.project
  name    = "${var.name}-subscription"
  topic   = google_pubsub_topic.this.id
  labels  = var.labels

  # With push also the time limit for an answer. The exporter's timeout for a commit is 20 s.
  ack_deadline_seconds       = 30
  message_retention_duration = local.week

  # Without this, Pub/Sub deletes the subscription after 31 days without a message.
  expiration_policy {
    ttl = ""
  }

  dynamic "push_config" {
    for_each = var.push[*]

    content {
      push_endpoint = push_config.value.endpoint

      oidc_token {
        service_account_email = push_config.value.service_account
        audience              = push_config.value.audience
      }
    }
  }

  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }

  # Every delivery that is not acknowledged is an attempt, also during an outage of the exporter: 100 attempts
  # take about 16 hours, 5 would take minutes.
  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.dead_letter.id
    max_delivery_attempts = 100
  }
}

# The topic retains its messages, so that a subscription that is created later can seek back to them.
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

# For people, to read dead letters.
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

# The exporter ignores events that it has counted before, so replaying too much does no harm. With pull, the exporter
# reads the dead-letter subscription itself.
resource "google_pubsub_subscription" "replay" {
  count = var.replay && var.push != null ? 1 : 0

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
    push_endpoint = var.push.endpoint

    oidc_token {
      service_account_email = var.push.service_account
      audience              = var.push.audience
    }
  }

  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }
}

# Pub/Sub's agent moves a dead letter: it publishes to the dead-letter topic and acknowledges on the subscription.
resource "google_pubsub_topic_iam_member" "dead_letter" {
  project = var.project
  topic   = google_pubsub_topic.dead_letter.name
  role    = "roles/pubsub.publisher"
  member  = var.pubsub_agent
}

resource "google_pubsub_subscription_iam_member" "dead_letter" {
  project      = var.project
  subscription = google_pubsub_subscription.this.name
  role         = "roles/pubsub.subscriber"
  member       = var.pubsub_agent
}

resource "google_pubsub_subscription_iam_member" "pull" {
  for_each = local.pull_roles

  project      = var.project
  subscription = google_pubsub_subscription.this.name
  role         = each.key
  member       = var.puller
}

resource "google_pubsub_subscription_iam_member" "replay" {
  for_each = var.replay ? local.pull_roles : []

  project      = var.project
  subscription = google_pubsub_subscription.dead_letter.name
  role         = each.key
  member       = var.puller
}
