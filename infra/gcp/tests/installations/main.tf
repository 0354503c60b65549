# Several installations, as a configuration that uses this one as a module has them.

terraform {
  required_providers {
    google = {
      source = "hashicorp/google"
    }
  }
}

variable "installations" {
  type = map(object({
    delivery      = string
    push_endpoint = optional(string)
  }))
}

module "installation" {
  source   = "../.."
  for_each = var.installations

  project_id    = "example-project"
  prefix        = each.key
  delivery      = each.value.delivery
  push_endpoint = each.value.push_endpoint
}

module "at_most_one" {
  source = "../.."
  count  = 1

  project_id    = "example-project"
  prefix        = "other"
  push_endpoint = "https://other.example.com"
}

output "subscriptions" {
  value = merge(
    { for prefix, installation in module.installation : prefix => installation.subscriptions },
    { other = one(module.at_most_one[*].subscriptions) },
  )
}
