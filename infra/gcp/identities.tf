# The service accounts that push, and that list instances and pull. Neither has a key.

# Pub/Sub signs push tokens as this account. The exporter accepts pushes from no other account. It has no role.
resource "google_service_account" "push" {
  count = var.delivery == "push" ? 1 : 0

  project      = var.project_id
  account_id   = "${var.prefix}-push"
  display_name = "Pushes to the spot-interruption-exporter"

  depends_on = [google_project_service.this]
}

# Granted on this account only, not in the project. The Pub/Sub agent exists only after the topics.
resource "google_service_account_iam_member" "push_tokens" {
  count = length(google_service_account.push)

  service_account_id = google_service_account.push[count.index].name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = local.pubsub_agent

  depends_on = [module.event_stream]
}

resource "google_service_account" "exporter" {
  project      = var.project_id
  account_id   = "${var.prefix}-exporter"
  display_name = "Runs the spot-interruption-exporter"

  depends_on = [google_project_service.this]
}

# Only the permissions to list instances and operations.
# https://cloud.google.com/compute/docs/reference/rest/v1/instances/aggregatedList
# https://cloud.google.com/compute/docs/reference/rest/v1/globalOperations/aggregatedList
resource "google_project_iam_custom_role" "list_instances" {
  for_each = toset(local.projects)

  project     = each.key
  role_id     = "${replace(var.prefix, "-", "_")}_list_instances"
  title       = "List instances and operations (${var.prefix})"
  description = "For the spot-interruption-exporter"
  permissions = ["compute.globalOperations.list", "compute.instances.list", "compute.zoneOperations.list"]

  depends_on = [google_project_service.this]
}

resource "google_project_iam_member" "list_instances" {
  for_each = toset(local.projects)

  project = each.key
  role    = google_project_iam_custom_role.list_instances[each.key].name
  member  = google_service_account.exporter.member
}

# The exporter's pods use the exporter account through workload identity.
resource "google_service_account_iam_member" "workload_identity" {
  service_account_id = google_service_account.exporter.name
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${coalesce(var.cluster_project_id, var.project_id)}.svc.id.goog[${var.kubernetes_namespace}/${var.kubernetes_service_account}]"
}
