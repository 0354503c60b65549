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

variable "sink_parents" {
  description = "what each gets a sink: projects/ID, folders/NUMBER or organizations/NUMBER"
  type        = list(string)
}

variable "push" {
  description = "the URL that messages are pushed to, with the account and the audience of the tokens; null: they are pulled"
  type = object({
    endpoint        = string
    service_account = string
    audience        = string
  })
}

variable "puller" {
  description = "the IAM member that pulls, if messages are not pushed"
  type        = string
}

variable "replay" {
  description = "deliver the dead letters again"
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
