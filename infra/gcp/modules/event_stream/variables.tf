variable "name" {
  description = "prefix of the names of all resources in the stream"
  type        = string
}

variable "project" {
  description = "the project of the topics and subscriptions"
  type        = string
}

variable "labels" {
  description = "labels of the topics and subscriptions"
  type        = map(string)
}

variable "filter" {
  description = "filter of the log entries, in the Logging query language"
  type        = string
}

variable "sink_parent" {
  description = "folders/NUMBER or organizations/NUMBER for one sink; empty: a sink in each of the projects"
  type        = string
}

variable "projects" {
  description = "the projects that each get a sink if sink_parent is empty"
  type        = list(string)
}

variable "push_endpoint" {
  description = "the URL that messages are pushed to"
  type        = string
}

variable "push_service_account" {
  description = "the e-mail address of the service account that signs the push tokens"
  type        = string
}

variable "audience" {
  description = "the audience of the push tokens"
  type        = string
}

variable "replay" {
  description = "push the dead letters again"
  type        = bool
}

variable "pubsub_agent" {
  description = "Pub/Sub's service agent in the project, as an IAM member"
  type        = string
}

variable "message_storage_regions" {
  description = "the only regions where messages may be kept; empty: any"
  type        = list(string)
}

variable "kms_key_name" {
  description = "the key of the topics; null: Google's"
  type        = string
}
