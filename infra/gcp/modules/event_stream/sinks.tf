locals {
  parents = {
    for kind in ["projects", "folders", "organizations"] :
    kind => toset([for parent in var.sink_parents : split("/", parent)[1] if startswith(parent, "${kind}/")])
  }
  sink = { name = "${var.name}-sink", description = "For the spot-interruption-exporter" }

  # Each sink writes with an identity of its own.
  writers = merge(
    { for project, sink in google_logging_project_sink.this : project => sink.writer_identity },
    { for folder, sink in google_logging_folder_sink.this : "folders/${folder}" => sink.writer_identity },
    { for org, sink in google_logging_organization_sink.this : "organizations/${org}" => sink.writer_identity },
  )
}

resource "google_logging_project_sink" "this" {
  for_each = local.parents.projects

  project                = each.key
  name                   = local.sink.name
  description            = local.sink.description
  destination            = "pubsub.googleapis.com/${google_pubsub_topic.this.id}"
  filter                 = var.filter
  unique_writer_identity = true
}

resource "google_logging_folder_sink" "this" {
  for_each = local.parents.folders

  folder           = each.key
  name             = local.sink.name
  description      = local.sink.description
  destination      = "pubsub.googleapis.com/${google_pubsub_topic.this.id}"
  filter           = var.filter
  include_children = true
}

resource "google_logging_organization_sink" "this" {
  for_each = local.parents.organizations

  org_id           = each.key
  name             = local.sink.name
  description      = local.sink.description
  destination      = "pubsub.googleapis.com/${google_pubsub_topic.this.id}"
  filter           = var.filter
  include_children = true
}

resource "google_pubsub_topic_iam_member" "sink" {
  for_each = local.writers

  project = var.project
  topic   = google_pubsub_topic.this.name
  role    = "roles/pubsub.publisher"
  member  = each.value
}
