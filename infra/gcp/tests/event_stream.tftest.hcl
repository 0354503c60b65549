# A single stream: its sinks, topics, subscriptions and grants.

mock_provider "google" {
  source = "./tests/mocks"
}

variables {
  name         = "sie-creation"
  project      = "example-project"
  labels       = { team = "platform" }
  filter       = "severity>=ERROR"
  sink_parents = ["projects/example-project", "projects/shop-project"]
  push = {
    endpoint        = "https://sie.example.com/events/creation"
    service_account = "sie-push@example-project.iam.gserviceaccount.com"
    audience        = "https://sie.example.com"
  }
  puller                  = "serviceAccount:sie-exporter@example-project.iam.gserviceaccount.com"
  replay                  = false
  pubsub_agent            = "serviceAccount:service-408213775019@gcp-sa-pubsub.iam.gserviceaccount.com"
  message_storage_regions = []
  kms_key_name            = null
}

run "push" {
  module {
    source = "./modules/event_stream"
  }

  assert {
    condition = (
      google_pubsub_subscription.this.push_config[0].push_endpoint == "https://sie.example.com/events/creation"
      && google_pubsub_subscription.this.push_config[0].oidc_token[0].service_account_email == "sie-push@example-project.iam.gserviceaccount.com"
      && google_pubsub_subscription.this.push_config[0].oidc_token[0].audience == "https://sie.example.com"
      && length(google_pubsub_subscription.this.push_config[0].no_wrapper) == 0
    )
    error_message = "Messages should be pushed in an envelope, with a token."
  }

  assert {
    condition     = length(google_pubsub_subscription_iam_member.pull) == 0
    error_message = "Nobody should pull messages that are pushed."
  }

  assert {
    condition = (
      google_pubsub_subscription.this.topic == google_pubsub_topic.this.id
      && google_pubsub_subscription.this.ack_deadline_seconds == 30
      && google_pubsub_subscription.this.message_retention_duration == "${7 * 24 * 3600}s"
      && google_pubsub_subscription.this.retry_policy[0].minimum_backoff == "10s"
      && google_pubsub_subscription.this.retry_policy[0].maximum_backoff == "600s"
    )
    error_message = "Messages that are not acknowledged should be retried after 10 to 600 seconds, for 7 days."
  }

  assert {
    condition = alltrue([
      for subscription in [google_pubsub_subscription.this, google_pubsub_subscription.dead_letter] :
      subscription.expiration_policy[0].ttl == ""
    ])
    error_message = "An idle subscription should not be deleted."
  }

  assert {
    condition = (
      length(google_pubsub_topic.this.message_storage_policy) == 0
      && google_pubsub_topic.this.labels == tomap({ team = "platform" })
      && google_pubsub_subscription.this.labels == tomap({ team = "platform" })
    )
    error_message = "Labels should be set, and storage should not be restricted by default."
  }
}

run "dead_letters" {
  module {
    source = "./modules/event_stream"
  }

  assert {
    condition = (
      google_pubsub_subscription.this.dead_letter_policy[0].dead_letter_topic == google_pubsub_topic.dead_letter.id
      && google_pubsub_subscription.this.dead_letter_policy[0].max_delivery_attempts == 100
    )
    error_message = "A message should become a dead letter after exactly 100 deliveries."
  }

  assert {
    condition = (
      google_pubsub_topic.dead_letter.name == "sie-creation-dead-letter-topic"
      && google_pubsub_topic.dead_letter.message_retention_duration == "${14 * 24 * 3600}s"
      && google_pubsub_subscription.dead_letter.topic == google_pubsub_topic.dead_letter.id
      && google_pubsub_subscription.dead_letter.message_retention_duration == "${14 * 24 * 3600}s"
      && length(google_pubsub_subscription.dead_letter.push_config) == 0
    )
    error_message = "Dead letters should be kept for 14 days in a pull subscription."
  }

  assert {
    condition = (
      google_pubsub_topic_iam_member.dead_letter.topic == google_pubsub_topic.dead_letter.name
      && google_pubsub_topic_iam_member.dead_letter.role == "roles/pubsub.publisher"
      && google_pubsub_topic_iam_member.dead_letter.member == var.pubsub_agent
      && google_pubsub_subscription_iam_member.dead_letter.subscription == google_pubsub_subscription.this.name
      && google_pubsub_subscription_iam_member.dead_letter.role == "roles/pubsub.subscriber"
      && google_pubsub_subscription_iam_member.dead_letter.member == var.pubsub_agent
    )
    error_message = "Pub/Sub should be able to move a message to the dead-letter topic."
  }

  assert {
    condition     = length(google_pubsub_subscription.replay) == 0 && output.replay_subscriptions == []
    error_message = "Dead letters should not be replayed by default."
  }
}

run "replay" {
  module {
    source = "./modules/event_stream"
  }

  variables {
    replay = true
  }

  assert {
    condition = (
      google_pubsub_subscription.replay[0].topic == google_pubsub_topic.dead_letter.id
      && google_pubsub_subscription.replay[0].name == "sie-creation-replay-subscription"
      && google_pubsub_subscription.replay[0].message_retention_duration == google_pubsub_topic.dead_letter.message_retention_duration
      && google_pubsub_subscription.replay[0].push_config == google_pubsub_subscription.this.push_config
      && google_pubsub_subscription.replay[0].retry_policy == google_pubsub_subscription.this.retry_policy
      && google_pubsub_subscription.replay[0].expiration_policy[0].ttl == ""
      && length(google_pubsub_subscription.replay[0].dead_letter_policy) == 0
    )
    error_message = "Dead letters should be pushed to the same endpoint as the stream's messages."
  }
}

run "pull" {
  # Terraform should know at the first plan what it creates.
  command = plan

  module {
    source = "./modules/event_stream"
  }

  variables {
    push = null
  }

  assert {
    condition     = length(google_pubsub_subscription.this.push_config) == 0
    error_message = "Messages should wait until the exporter pulls them."
  }

  assert {
    condition = (
      google_pubsub_subscription.this.ack_deadline_seconds == 30
      && google_pubsub_subscription.this.message_retention_duration == "${7 * 24 * 3600}s"
      && google_pubsub_subscription.this.expiration_policy[0].ttl == ""
      && google_pubsub_subscription.this.retry_policy[0].maximum_backoff == "600s"
      && google_pubsub_subscription.this.dead_letter_policy[0].max_delivery_attempts == 100
    )
    error_message = "Everything but the delivery should be as with push."
  }

  assert {
    condition = (
      toset(keys(google_pubsub_subscription_iam_member.pull)) == toset(["roles/pubsub.subscriber", "roles/pubsub.viewer"])
      && alltrue([
        for role, grant in google_pubsub_subscription_iam_member.pull :
        grant.role == role
        && grant.subscription == "sie-creation-subscription"
        && grant.member == "serviceAccount:sie-exporter@example-project.iam.gserviceaccount.com"
      ])
      && length(google_pubsub_subscription_iam_member.replay) == 0
    )
    error_message = "The exporter should pull from this subscription only, and look at it."
  }
}

run "replay_with_pull" {
  command = plan

  module {
    source = "./modules/event_stream"
  }

  variables {
    push   = null
    replay = true
  }

  assert {
    condition = (
      length(google_pubsub_subscription.replay) == 0
      && toset(keys(google_pubsub_subscription_iam_member.replay)) == toset(["roles/pubsub.subscriber", "roles/pubsub.viewer"])
      && alltrue([
        for grant in google_pubsub_subscription_iam_member.replay :
        grant.subscription == "sie-creation-dead-letter-subscription" && grant.member == var.puller
      ])
    )
    error_message = "The exporter should be able to pull the dead letters."
  }
}

run "a_sink_in_each_project" {
  module {
    source = "./modules/event_stream"
  }

  assert {
    condition = (
      toset(keys(google_logging_project_sink.this)) == toset(["example-project", "shop-project"])
      && alltrue([
        for project, sink in google_logging_project_sink.this :
        sink.project == project
        && sink.name == "sie-creation-sink"
        && sink.filter == "severity>=ERROR"
        && sink.destination == "pubsub.googleapis.com/${google_pubsub_topic.this.id}"
        && sink.unique_writer_identity
      ])
      && length(google_logging_folder_sink.this) == 0
      && length(google_logging_organization_sink.this) == 0
    )
    error_message = "Each project should have a sink to the shared topic."
  }

  assert {
    condition = (
      toset(keys(google_pubsub_topic_iam_member.sink)) == toset(["example-project", "shop-project"])
      && alltrue([
        for project, grant in google_pubsub_topic_iam_member.sink :
        grant.topic == google_pubsub_topic.this.name
        && grant.role == "roles/pubsub.publisher"
        && grant.member == google_logging_project_sink.this[project].writer_identity
      ])
    )
    error_message = "Each sink should be able to publish to this topic only."
  }
}

run "a_folder" {
  module {
    source = "./modules/event_stream"
  }

  variables {
    sink_parents = ["folders/123456789012"]
  }

  assert {
    condition = (
      google_logging_folder_sink.this["123456789012"].folder == "123456789012"
      && google_logging_folder_sink.this["123456789012"].include_children
      && google_logging_folder_sink.this["123456789012"].filter == "severity>=ERROR"
      && google_logging_folder_sink.this["123456789012"].destination == "pubsub.googleapis.com/${google_pubsub_topic.this.id}"
      && length(google_logging_project_sink.this) == 0
      && length(google_logging_organization_sink.this) == 0
    )
    error_message = "A single sink should cover the whole folder."
  }

  assert {
    condition = (
      keys(google_pubsub_topic_iam_member.sink) == ["folders/123456789012"]
      && google_pubsub_topic_iam_member.sink["folders/123456789012"].member == google_logging_folder_sink.this["123456789012"].writer_identity
    )
    error_message = "The folder's sink should be able to publish."
  }
}

run "an_organisation" {
  module {
    source = "./modules/event_stream"
  }

  variables {
    sink_parents = ["organizations/210987654321"]
  }

  assert {
    condition = (
      google_logging_organization_sink.this["210987654321"].org_id == "210987654321"
      && google_logging_organization_sink.this["210987654321"].include_children
      && google_logging_organization_sink.this["210987654321"].filter == "severity>=ERROR"
      && google_logging_organization_sink.this["210987654321"].destination == "pubsub.googleapis.com/${google_pubsub_topic.this.id}"
      && length(google_logging_project_sink.this) == 0
      && length(google_logging_folder_sink.this) == 0
    )
    error_message = "A single sink should cover the whole organisation."
  }

  assert {
    condition = (
      keys(google_pubsub_topic_iam_member.sink) == ["organizations/210987654321"]
      && google_pubsub_topic_iam_member.sink["organizations/210987654321"].member == google_logging_organization_sink.this["210987654321"].writer_identity
    )
    error_message = "The organisation's sink should be able to publish."
  }
}

run "regions_and_key" {
  module {
    source = "./modules/event_stream"
  }

  variables {
    message_storage_regions = ["europe-west1"]
    kms_key_name            = "projects/keys-project/locations/europe-west1/keyRings/ring/cryptoKeys/pubsub"
  }

  assert {
    condition = alltrue([
      for topic in [google_pubsub_topic.this, google_pubsub_topic.dead_letter] :
      tolist(topic.message_storage_policy[0].allowed_persistence_regions) == tolist(["europe-west1"])
      && topic.kms_key_name == var.kms_key_name
    ])
    error_message = "Both topics should store messages in these regions, encrypted with this key."
  }
}
