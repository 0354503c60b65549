# The configuration as a module of another one, and the examples.

mock_provider "google" {
  source = "./tests/mocks"
}

run "several_with_for_each_and_one_with_count" {
  module {
    source = "./tests/installations"
  }

  variables {
    installations = {
      sie     = { delivery = "push", push_endpoint = "https://sie.example.com" }
      sie-dev = { delivery = "pull" }
    }
  }

  assert {
    condition = output.subscriptions == {
      sie     = { creation = "sie-creation-subscription", interruption = "sie-interruption-subscription" }
      sie-dev = { creation = "sie-dev-creation-subscription", interruption = "sie-dev-interruption-subscription" }
      other   = { creation = "other-creation-subscription", interruption = "other-interruption-subscription" }
    }
    error_message = "Each installation should have its own subscriptions."
  }
}

run "an_installation_less" {
  module {
    source = "./tests/installations"
  }

  variables {
    installations = {
      sie-dev = { delivery = "pull" }
    }
  }

  assert {
    condition     = keys(output.subscriptions) == ["other", "sie-dev"]
    error_message = "Removing an installation should keep the others."
  }
}

run "example_of_push" {
  module {
    source = "./examples/push"
  }

  assert {
    condition     = yamldecode(output.exporter_config).pubsub.audience == "https://sie.example.com"
    error_message = "The exporter should accept pushes."
  }
}

run "example_of_replicas" {
  module {
    source = "./examples/replicas"
  }

  assert {
    condition     = startswith(output.valkey_url, "rediss://10.0.0.2:6379/") && output.valkey_ca_certificates != ""
    error_message = "The replicas should share a store."
  }
}

run "example_of_pull" {
  module {
    source = "./examples/pull"
  }

  assert {
    condition     = yamldecode(output.exporter_config).pubsub.delivery == "pull"
    error_message = "The exporter should pull."
  }
}
