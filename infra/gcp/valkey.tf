# A store that several replicas share. What it has confirmed is on disk (AOF, always), and on a second node.

locals {
  valkey_connections = flatten([
    for instance in google_memorystore_instance.this : [
      for endpoint in instance.endpoints : [for connection in endpoint.connections : connection.psc_auto_connection]
    ]
  ])
  valkey_primary = one([
    for connection in local.valkey_connections : connection
    if connection.connection_type == "CONNECTION_TYPE_PRIMARY"
  ])

  # Beside the configuration, in the same ConfigMap. The authority is this instance's alone, so that the
  # name in a certificate, which is reached by address, adds nothing.
  valkey_ca_file = "/etc/spot-interruption-exporter/valkey-ca.pem"
  store_url = var.valkey == null ? "" : join("", [
    "rediss://${local.valkey_primary.ip_address}:${local.valkey_primary.port}/0",
    "?ssl_ca_certs=${local.valkey_ca_file}&ssl_check_hostname=false",
  ])
}

# A network has one for a region and service, and no second: where there is one, name no subnetworks.
# A shared network's is its own project's.
resource "google_network_connectivity_service_connection_policy" "valkey" {
  count = try(length(var.valkey.subnetworks), 0) > 0 ? 1 : 0

  project       = split("/", var.valkey.network)[1]
  name          = "${var.prefix}-valkey"
  location      = var.valkey.region
  service_class = "gcp-memorystore"
  network       = var.valkey.network
  labels        = var.labels

  psc_config {
    subnetworks = var.valkey.subnetworks
  }

  depends_on = [google_project_service.this]
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

  # One shard: a transaction has keys of its own choosing. One replica, in another zone.
  mode          = "CLUSTER_DISABLED"
  shard_count   = 1
  replica_count = 1

  zone_distribution_config {
    mode = "MULTI_ZONE"
  }

  # An acknowledged event is on disk, and none is evicted: a full store refuses, and Pub/Sub sends again.
  persistence_config {
    mode = "AOF"

    aof_config {
      append_fsync = "ALWAYS"
    }
  }

  engine_configs = {
    maxmemory-policy = "noeviction"
  }

  # Who is let in is the network's business: IAM's passwords last an hour, and a URL has one for good.
  transit_encryption_mode = "SERVER_AUTHENTICATION"
  authorization_mode      = "AUTH_DISABLED"

  desired_auto_created_endpoints {
    network    = var.valkey.network
    project_id = var.project_id
  }

  depends_on = [google_network_connectivity_service_connection_policy.valkey, google_project_service.this]
}
