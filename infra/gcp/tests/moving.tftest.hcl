# Moving from the sinks of projects to the sink of a folder, in two steps. In between both exist, so that a sink covers
# every moment. The exporter counts an event once, although two sinks export it.

mock_provider "google" {
  source = "./tests/mocks"
}

variables {
  name         = "sie-creation"
  project      = "example-project"
  labels       = {}
  filter       = "severity>=ERROR"
  sink_parents = ["projects/shop-project", "projects/till-project"]
  push = {
    endpoint        = "https://sie.example.com/events/creation"
    service_account = "sie-push@example-project.iam.gserviceaccount.com"
    audience        = "https://sie.example.com"
  }
  puller                  = null
  replay                  = false
  pubsub_agent            = "serviceAccount:service-408213775019@gcp-sa-pubsub.iam.gserviceaccount.com"
  message_storage_regions = []
  kms_key_name            = null
}

run "before" {
  module {
    source = "./modules/event_stream"
  }

  assert {
    condition     = keys(output.sinks) == ["projects/shop-project", "projects/till-project"]
    error_message = "Each project should have a sink."
  }
}

run "first_step" {
  module {
    source = "./modules/event_stream"
  }

  variables {
    sink_parents = ["projects/shop-project", "projects/till-project", "folders/123456789012"]
  }

  assert {
    condition = (
      length(output.sinks) == 3
      && output.sinks["projects/shop-project"] == run.before.sinks["projects/shop-project"]
      && output.sinks["projects/till-project"] == run.before.sinks["projects/till-project"]
    )
    error_message = "The old sinks should stay, and should not be created again."
  }

  # A sink with another name would be another sink.
  assert {
    condition = alltrue([
      for sink in concat(values(google_logging_project_sink.this), values(google_logging_folder_sink.this)) :
      sink.name == "sie-creation-sink" && sink.destination == "pubsub.googleapis.com/${google_pubsub_topic.this.id}"
    ])
    error_message = "All sinks should have the same name and topic at each step."
  }

  assert {
    condition     = toset(keys(google_pubsub_topic_iam_member.sink)) == toset(["shop-project", "till-project", "folders/123456789012"])
    error_message = "The old sinks and the new sink should be able to publish."
  }
}

run "second_step" {
  module {
    source = "./modules/event_stream"
  }

  variables {
    sink_parents = ["folders/123456789012"]
  }

  assert {
    condition     = output.sinks == { "folders/123456789012" = run.first_step.sinks["folders/123456789012"] }
    error_message = "Only the new sink should be left, and it should be the sink of the first step."
  }

  assert {
    condition     = keys(google_pubsub_topic_iam_member.sink) == ["folders/123456789012"]
    error_message = "The old sinks should not be able to publish."
  }
}
