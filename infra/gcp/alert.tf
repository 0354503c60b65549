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
      The exporter refused a message 100 times, or was away for some 16 hours. It is not lost: its dead-letter
      topic and subscription keep it for 14 days. Look at it, mend the cause, then replay it:
      see "Dead letters" in the README, and `terraform output -raw dead_letter_commands`.
    EOT
  }

  depends_on = [google_project_service.this]
}
