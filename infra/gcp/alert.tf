resource "google_monitoring_alert_policy" "dead_letters" {
  project               = var.project_id
  display_name          = "${var.prefix}: dead letters of the spot-interruption-exporter"
  combiner              = "OR"
  severity              = "WARNING"
  notification_channels = var.notification_channels
  user_labels           = var.labels

  conditions {
    display_name = "A message was given up after 100 deliveries"

    condition_threshold {
      filter = join(" AND ", [
        "resource.type = \"pubsub_subscription\"",
        "metric.type = \"pubsub.googleapis.com/subscription/dead_letter_message_count\"",
        "resource.labels.subscription_id = one_of(${join(", ", [for stream in module.event_stream : "\"${stream.subscription}\""])})",
      ])
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"

      aggregations {
        alignment_period   = "300s"
        per_series_aligner = "ALIGN_DELTA"
      }
    }
  }

  alert_strategy {
    auto_close = "86400s"
  }

  documentation {
    mime_type = "text/markdown"
    content   = <<-EOT
      Pub/Sub gave up on a message after 100 deliveries: the exporter refused it, or was away for about 16 hours.
      The message is not lost. Its dead-letter topic and subscription keep it for 14 days.
      Look at the message, fix the cause, then replay it. [Dead letters](${var.runbook}#dead-letters) describes
      the steps, and `terraform output -raw dead_letter_commands` prints the commands.
    EOT
  }

  depends_on = [google_project_service.this]
}
