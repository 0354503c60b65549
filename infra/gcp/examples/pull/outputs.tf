# The values that `terraform output -raw` prints.

output "exporter_config" {
  value = module.spot_interruption_exporter.exporter_config
}

output "exporter_service_account_email" {
  value = module.spot_interruption_exporter.exporter_service_account_email
}

output "verify_commands" {
  value = module.spot_interruption_exporter.verify_commands
}

output "dead_letter_commands" {
  value = module.spot_interruption_exporter.dead_letter_commands
}
