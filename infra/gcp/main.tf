# Two streams of log entries. Each goes from log sinks through a topic and a subscription to the exporter.

locals {
  projects = length(var.projects) > 0 ? var.projects : [var.project_id]
  audience = try(coalesce(var.audience, var.push_endpoint), null)

  # Pub/Sub's service agent in this project. It exists after the first use of the API.
  project_number = var.project_number != null ? var.project_number : data.google_project.this[0].number
  pubsub_agent   = "serviceAccount:service-${local.project_number}@gcp-sa-pubsub.iam.gserviceaccount.com"

  # https://cloud.google.com/logging/docs/view/logging-query-language
  streams = {
    # An accepted insert is logged twice: first with the request, last with the result.
    # A request's labels are a list of keys and values. A last entry has no labels, so failures and deletions of all
    # VMs match. Spot VMs that are not GKE nodes match too, so that the exporter can ignore their preemptions.
    creation = {
      path   = "/events/creation"
      filter = <<-EOT
        log_id("cloudaudit.googleapis.com/activity")
        AND resource.type="gce_instance"
        AND (
          (
            protoPayload.methodName=~"^([a-z0-9]+[.])?compute[.]instances[.]insert$"
            AND (
              (
                operation.first=true
                AND (
                  protoPayload.request.labels.key="goog-k8s-cluster-name"
                  OR protoPayload.request.scheduling.provisioningModel="SPOT"
                  OR protoPayload.request.scheduling.preemptible=true
                )
              )
              OR (operation.last=true AND severity>=ERROR)
            )
          )
          OR (
            protoPayload.methodName=~"^([a-z0-9]+[.])?compute[.]instances[.]delete$"
            AND operation.last=true
          )
        )
      EOT
    }

    # A preemption does not show whether the VM is a GKE node, so preemptions of all VMs match.
    interruption = {
      path   = "/events/interruption"
      filter = <<-EOT
        log_id("cloudaudit.googleapis.com/system_event")
        AND resource.type="gce_instance"
        AND protoPayload.methodName="compute.instances.preempted"
      EOT
    }
  }
}

data "google_project" "this" {
  count = var.project_number == null ? 1 : 0

  project_id = var.project_id
}

resource "google_project_service" "this" {
  for_each = var.enable_apis ? toset(concat(
    ["iam", "iamcredentials", "logging", "monitoring", "pubsub"],
    var.valkey == null ? [] : ["memorystore", "networkconnectivity", "serviceconsumermanagement"],
  )) : toset([])

  project            = var.project_id
  service            = "${each.key}.googleapis.com"
  disable_on_destroy = false
}

module "event_stream" {
  source   = "./modules/event_stream"
  for_each = local.streams

  name    = "${var.prefix}-${each.key}"
  project = var.project_id
  labels  = var.labels

  filter       = each.value.filter
  sink_parents = length(var.sink_parents) > 0 ? var.sink_parents : [for project in local.projects : "projects/${project}"]

  push = one([
    for account in google_service_account.push : {
      endpoint        = try("${var.push_endpoint}${each.value.path}", "")
      service_account = account.email
      audience        = local.audience
    }
  ])
  puller = google_service_account.exporter.member
  replay = var.replay

  pubsub_agent            = local.pubsub_agent
  message_storage_regions = var.message_storage_regions
  kms_key_name            = var.kms_key_name

  depends_on = [google_project_service.this, google_kms_crypto_key_iam_member.pubsub]
}

resource "google_kms_crypto_key_iam_member" "pubsub" {
  count = var.kms_key_name == null ? 0 : 1

  crypto_key_id = var.kms_key_name
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = local.pubsub_agent

  depends_on = [google_project_service.this]
}
