# The README's table of variables has these descriptions and defaults; a test keeps them equal.
# Rules about several variables are in outputs.tf, because Terraform before 1.9 cannot have them here.

variable "project_id" {
  description = "the project that gets the topics, subscriptions and service accounts"
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id should be a project's id, not its number and not its name."
  }
}

variable "project_number" {
  description = "the number of `project_id`; default: Terraform looks it up, which also reads the project's billing information"
  type        = string
  default     = null

  validation {
    condition     = var.project_number == null || can(regex("^[0-9]+$", var.project_number))
    error_message = "project_number should be digits; `gcloud projects describe` prints it."
  }
}

variable "delivery" {
  description = "`push`, or `pull`, which needs no address on the internet; the exporter's configuration has the same"
  type        = string
  default     = "push"
  nullable    = false

  validation {
    condition     = contains(["push", "pull"], var.delivery)
    error_message = "delivery should be push or pull."
  }
}

variable "push_endpoint" {
  description = "the URL of the exporter on the internet: `https://`, a host with a valid certificate, no slash at the end; required with `push`"
  type        = string
  default     = null

  validation {
    condition     = var.push_endpoint == null || can(regex("^https://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._~-]+)*$", var.push_endpoint))
    error_message = "push_endpoint should begin with https:// and end without a slash; Pub/Sub signs no token for plain http."
  }

  validation {
    condition     = var.push_endpoint == null || !can(regex("/events(/|$)", var.push_endpoint))
    error_message = "push_endpoint should end before /events/, which is added to it."
  }
}

variable "projects" {
  description = "the projects whose GKE nodes are counted and listed; empty: `project_id` alone"
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition = alltrue([
      for project in var.projects : can(regex("^([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$", project))
    ])
    error_message = "projects should be projects' ids, not their numbers and not their names."
  }

  validation {
    condition     = length(distinct(var.projects)) == length(var.projects)
    error_message = "projects should name each project once."
  }
}

variable "sink_parents" {
  description = "what gets a sink: `folders/NUMBER`, `organizations/NUMBER`, each with everything below it, or `projects/ID`; empty: each of `projects`"
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition = alltrue([
      for parent in var.sink_parents :
      can(regex("^((folders|organizations)/[0-9]+|projects/([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9])$", parent))
    ])
    error_message = "sink_parents should be names like folders/NUMBER, organizations/NUMBER and projects/ID."
  }

  validation {
    condition     = length(distinct(var.sink_parents)) == length(var.sink_parents)
    error_message = "sink_parents should name each parent once."
  }
}

variable "prefix" {
  description = "prefix of every name, so that several installations fit in a project"
  type        = string
  default     = "sie"
  nullable    = false

  validation {
    # At most 20: a service account's id has 30 characters, and the longest suffix here has 9.
    condition     = can(regex("^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$", var.prefix))
    error_message = "prefix should be 1 to 20 lower-case letters, digits and hyphens, begin with a letter and not end with a hyphen."
  }

  validation {
    condition     = !startswith(var.prefix, "goog")
    error_message = "prefix should not begin with goog: Pub/Sub reserves such names."
  }
}

variable "labels" {
  description = "labels of everything that can have them"
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition = alltrue([
      for key, value in var.labels :
      can(regex("^[a-z][a-z0-9_-]{0,62}$", key)) && can(regex("^[a-z0-9_-]{0,63}$", value))
    ])
    error_message = "labels should have keys and values of at most 63 lower-case letters, digits, underscores and hyphens; a key begins with a letter."
  }
}

variable "audience" {
  description = "the audience of the push tokens, the same for both endpoints; default: `push_endpoint`"
  type        = string
  default     = null

  validation {
    condition     = var.audience == null || can(regex("^[[:graph:]]+$", var.audience))
    error_message = "audience should be a text without spaces."
  }
}

variable "cluster_project_id" {
  description = "the project of the cluster that the exporter runs in; default: `project_id`"
  type        = string
  default     = null

  validation {
    condition     = var.cluster_project_id == null || can(regex("^([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.cluster_project_id))
    error_message = "cluster_project_id should be a project's id, not its number and not its name."
  }
}

variable "kubernetes_namespace" {
  description = "the namespace that the exporter runs in"
  type        = string
  default     = "spot-interruption-exporter"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.kubernetes_namespace))
    error_message = "kubernetes_namespace should be the name of a namespace."
  }
}

variable "kubernetes_service_account" {
  description = "the Kubernetes service account that the exporter runs as"
  type        = string
  default     = "spot-interruption-exporter"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$", var.kubernetes_service_account))
    error_message = "kubernetes_service_account should be the name of a Kubernetes service account."
  }
}

variable "replay" {
  description = "deliver the dead letters to the exporter again; see Dead letters"
  type        = bool
  default     = false
  nullable    = false
}

variable "notification_channels" {
  description = "Cloud Monitoring channels that are notified of dead letters: `projects/P/notificationChannels/N`"
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition = alltrue([
      for channel in var.notification_channels : can(regex("^projects/[^/]+/notificationChannels/[0-9]+$", channel))
    ])
    error_message = "notification_channels should be names like projects/P/notificationChannels/N."
  }
}

variable "runbook" {
  description = "the address of your copy of the runbook, for the link in the alert on dead letters"
  type        = string
  default     = "https://git.example.com/spot-interruption-exporter/docs/runbook.md"
  nullable    = false

  validation {
    condition     = can(regex("^https?://[^[:space:]#()]+$", var.runbook))
    error_message = "runbook should be an address like https://git.example.com/docs/runbook.md, without a fragment."
  }
}

variable "message_storage_regions" {
  description = "the only regions where Pub/Sub may keep messages; empty: as the organisation's policy says"
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for region in var.message_storage_regions : can(regex("^[a-z]+-[a-z]+[0-9]+$", region))])
    error_message = "message_storage_regions should be regions like europe-west1."
  }
}

variable "kms_key_name" {
  description = "a key of your own for the topics: `projects/P/locations/L/keyRings/R/cryptoKeys/K`; default: Google's"
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_name == null || can(regex("^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$", var.kms_key_name))
    error_message = "kms_key_name should be a name like projects/P/locations/L/keyRings/R/cryptoKeys/K."
  }
}

variable "enable_apis" {
  description = "enable the APIs that are used; they stay enabled after `terraform destroy`"
  type        = bool
  default     = true
  nullable    = false
}

variable "valkey" {
  description = "a Memorystore for Valkey instance, for several replicas of the exporter; see Several replicas"
  type = object({
    region              = string
    network             = string
    subnetworks         = optional(list(string), [])
    node_type           = optional(string, "STANDARD_SMALL")
    engine_version      = optional(string, "VALKEY_8_0")
    deletion_protection = optional(bool, true)
  })
  default = null

  validation {
    condition     = var.valkey == null || can(regex("^[a-z]+-[a-z]+[0-9]+$", var.valkey.region))
    error_message = "valkey.region should be a region like europe-west1."
  }

  validation {
    condition     = var.valkey == null || can(regex("^projects/[^/]+/global/networks/[^/]+$", var.valkey.network))
    error_message = "valkey.network should be a name like projects/P/global/networks/N."
  }

  validation {
    condition = var.valkey == null || alltrue([
      for subnetwork in try(var.valkey.subnetworks, []) :
      can(regex("^projects/[^/]+/regions/[^/]+/subnetworks/[^/]+$", subnetwork))
    ])
    error_message = "valkey.subnetworks should be names like projects/P/regions/R/subnetworks/S."
  }
}
