# A store that several replicas share. Confirmed writes are on disk (AOF, fsync always); a second node replicates them.

locals {
  valkey_policy          = try(length(var.valkey.subnetworks), 0) > 0
  valkey_network_project = try(split("/", var.valkey.network)[1], null)

  valkey_connections = flatten([
    for instance in google_memorystore_instance.this : [
      for endpoint in instance.endpoints : [for connection in endpoint.connections : connection.psc_auto_connection]
    ]
  ])
  valkey_primary = one([
    for connection in local.valkey_connections : connection
    if connection.connection_type == "CONNECTION_TYPE_PRIMARY"
  ])

  # In the same Secret as the URL. The authority signs certificates of this instance only, so the host name need not
  # be checked; the instance is reached by address.
  valkey_ca_file = "/etc/spot-interruption-exporter-store/valkey-ca.pem"
  valkey_url = var.valkey == null ? "" : join("", [
    "rediss://${local.valkey_primary.ip_address}:${local.valkey_primary.port}/0",
    "?ssl_ca_certs=${local.valkey_ca_file}&ssl_check_hostname=false",
  ])
}

# A network can have only one policy per region and service class: if it exists, leave `subnetworks` empty.
# The policy belongs to the network's project, which differs from ours if the network is shared.
resource "google_network_connectivity_service_connection_policy" "valkey" {
  count = local.valkey_policy ? 1 : 0

  project       = local.valkey_network_project
  name          = "${var.prefix}-valkey"
  location      = var.valkey.region
  service_class = "gcp-memorystore"
  network       = var.valkey.network
  labels        = var.labels

  psc_config {
    subnetworks = var.valkey.subnetworks
  }

  depends_on = [google_project_service.this, google_project_service.network]
}

resource "google_project_service" "network" {
  count = var.enable_apis && local.valkey_policy && local.valkey_network_project != var.project_id ? 1 : 0

  project            = local.valkey_network_project
  service            = "networkconnectivity.googleapis.com"
  disable_on_destroy = false
}

resource "google_memorystore_instance" "this" {
  count = var.valkey == null ? 0 : 1

  project                     = var.project_id
  instance_id                 = "${var.prefix}-valkey"
  location                    = var.valkey.region
  node_type                   = var.valkey.node_type
  engine_version              = var.valkey.engine_version
  deletion_protection_enabled = var.valkey.deletion_protection
  labels                      = var.labels

  # One shard, so that a transaction may use any keys. One replica, in another zone.
  mode          = "CLUSTER_DISABLED"
  shard_count   = 1
  replica_count = 1

  zone_distribution_config {
    mode = "MULTI_ZONE"
  }

  # Acknowledged events are on disk and never evicted. A full store refuses writes, and Pub/Sub delivers again.
  persistence_config {
    mode = "AOF"

    aof_config {
      append_fsync = "ALWAYS"
    }
  }

  engine_configs = {
    maxmemory-policy = "noeviction"
  }

  # The network controls access. Passwords of IAM authentication expire after an hour, but a URL has a fixed password.
  transit_encryption_mode = "SERVER_AUTHENTICATION"
  authorization_mode      = "AUTH_DISABLED"

  desired_auto_created_endpoints {
    network    = var.valkey.network
    project_id = var.project_id
  }

  depends_on = [google_network_connectivity_service_connection_policy.valkey, google_project_service.this]
}
