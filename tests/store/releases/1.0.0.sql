PRAGMA application_id = 1397310770;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE archived_instances (
    name TEXT NOT NULL,
    identity TEXT NOT NULL,
    kind INTEGER NOT NULL,
    cluster TEXT NOT NULL,
    cluster_location TEXT NOT NULL,
    node_pool TEXT NOT NULL,
    machine_type TEXT NOT NULL,
    recorded_at REAL NOT NULL,
    spot INTEGER NOT NULL,
    alive INTEGER NOT NULL,
    announced INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    lifetime_observed INTEGER NOT NULL,
    overflowed INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    operation TEXT NOT NULL,
    created_at REAL,
    started_at REAL,
    interrupted_at REAL,
    ended_at REAL,
    PRIMARY KEY (name, identity)
) WITHOUT ROWID;
INSERT INTO "archived_instances" VALUES('shop-prod/europe-west1-b/node-7','100',1,'tills','europe-west1','spot-pool','e2-standard-8',1772449856.0,1,0,1,0,0,0,0,'insert-100',1772451156.0,NULL,NULL,1772451157.0);
INSERT INTO "archived_instances" VALUES('shop-prod/europe-west1-b/node-7','101',1,'tills','europe-west1','spot-pool','e2-standard-8',1772449856.0,1,0,1,0,0,0,0,'insert-101',1772451157.0,NULL,NULL,1772451158.0);
INSERT INTO "archived_instances" VALUES('shop-prod/europe-west1-b/node-7','102',1,'tills','europe-west1','spot-pool','e2-standard-8',1772449856.0,1,0,1,0,0,0,0,'insert-102',1772451158.0,NULL,NULL,1772451159.0);
INSERT INTO "archived_instances" VALUES('shop-prod/europe-west1-b/node-7','103',1,'tills','europe-west1','spot-pool','e2-standard-8',1772449856.0,1,0,1,0,1,0,0,'insert-103',1772451159.0,NULL,1772451606.0,1772451160.0);
CREATE TABLE clocks (
    name TEXT PRIMARY KEY,
    seconds REAL NOT NULL
) WITHOUT ROWID;
INSERT INTO "clocks" VALUES('accrued_until',1772451656.0);
INSERT INTO "clocks" VALUES('downtime',259200.0);
INSERT INTO "clocks" VALUES('jumped_at',1772449856.0);
INSERT INTO "clocks" VALUES('keys_complete_since',1772190656.0);
CREATE TABLE clusters (
    cluster TEXT PRIMARY KEY,
    interruptions INTEGER NOT NULL,
    last_interruption_at REAL,
    changed_at REAL NOT NULL,
    released INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO "clusters" VALUES('lab',1,1772451596.0,1772449856.0,1);
INSERT INTO "clusters" VALUES('tills',1,1772451606.0,1772449856.0,1);
INSERT INTO "clusters" VALUES('unknown',2,1772448656.0,1772451657.0,1);
CREATE TABLE event_keys (
    key TEXT PRIMARY KEY,
    recorded_at REAL NOT NULL
) WITHOUT ROWID;
INSERT INTO "event_keys" VALUES('created node-1 1',1772449856.0);
INSERT INTO "event_keys" VALUES('created node-14 14',1772451666.0);
INSERT INTO "event_keys" VALUES('created node-2 2',1772449856.0);
INSERT INTO "event_keys" VALUES('created node-3 3',1772449856.0);
INSERT INTO "event_keys" VALUES('created node-5 5',1772449856.0);
INSERT INTO "event_keys" VALUES('created node-7 100',1772449856.0);
INSERT INTO "event_keys" VALUES('created node-7 101',1772449856.0);
INSERT INTO "event_keys" VALUES('created node-7 102',1772449856.0);
INSERT INTO "event_keys" VALUES('created node-7 103',1772449856.0);
INSERT INTO "event_keys" VALUES('created node-7 104',1772449856.0);
INSERT INTO "event_keys" VALUES('created node-7 105',1772449856.0);
INSERT INTO "event_keys" VALUES('created node-7 106',1772449856.0);
INSERT INTO "event_keys" VALUES('created node-7 107',1772449856.0);
INSERT INTO "event_keys" VALUES('created node-7 108',1772449856.0);
INSERT INTO "event_keys" VALUES('created node-7 109',1772449856.0);
INSERT INTO "event_keys" VALUES('created node-7 110',1772449856.0);
INSERT INTO "event_keys" VALUES('created node-7 111',1772449856.0);
INSERT INTO "event_keys" VALUES('created node-8 8',1772449856.0);
INSERT INTO "event_keys" VALUES('interrupted node-10 10 1772451666.0',1772451666.0);
INSERT INTO "event_keys" VALUES('interrupted node-14 14 1772448656.0',1772449856.0);
INSERT INTO "event_keys" VALUES('interrupted node-2 2 1772451596.0',1772449856.0);
INSERT INTO "event_keys" VALUES('interrupted node-7 103 1772451606.0',1772449856.0);
INSERT INTO "event_keys" VALUES('interrupted node-9 9 1772448656.0',1772449856.0);
CREATE TABLE instances (
    name TEXT NOT NULL,
    identity TEXT NOT NULL,
    kind INTEGER NOT NULL,
    cluster TEXT NOT NULL,
    cluster_location TEXT NOT NULL,
    node_pool TEXT NOT NULL,
    machine_type TEXT NOT NULL,
    recorded_at REAL NOT NULL,
    spot INTEGER NOT NULL,
    alive INTEGER NOT NULL,
    announced INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    lifetime_observed INTEGER NOT NULL,
    overflowed INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    operation TEXT NOT NULL,
    created_at REAL,
    started_at REAL,
    interrupted_at REAL,
    ended_at REAL,
    PRIMARY KEY (name, identity)
) WITHOUT ROWID;
INSERT INTO "instances" VALUES('shop-prod/europe-west1-b/node-1','1',1,'tills','europe-west1','spot-pool','e2-standard-8',1772451596.0,1,1,1,0,0,0,0,'insert-1',1772451056.0,1772451056.0,NULL,NULL);
INSERT INTO "instances" VALUES('shop-prod/europe-west1-b/node-13','13',1,'lab','europe-west1','lab-pool','n2-standard-4',1772451596.0,1,1,0,0,0,0,0,'',1772450956.0,1772450956.0,NULL,NULL);
INSERT INTO "instances" VALUES('shop-prod/europe-west1-b/node-14','14',1,'tills','europe-west1','spot-pool','e2-standard-8',1772451666.0,1,0,1,0,1,0,0,'insert-14',1772447656.0,NULL,1772448656.0,1772448656.0);
INSERT INTO "instances" VALUES('shop-prod/europe-west1-b/node-2','2',1,'lab','europe-west1','lab-pool','n2-standard-4',1772449856.0,1,0,1,0,1,0,0,'insert-2',1772451156.0,NULL,1772451596.0,1772451596.0);
INSERT INTO "instances" VALUES('shop-prod/europe-west1-b/node-3','3',1,'tills','europe-west1','spot-pool','e2-standard-8',1772449856.0,1,0,1,1,0,0,0,'insert-3',1772451256.0,NULL,NULL,1772451266.0);
INSERT INTO "instances" VALUES('shop-prod/europe-west1-b/node-4','4',2,'unknown','unknown','unknown','unknown',1772451596.0,1,0,0,0,0,0,0,'insert-4',1772451356.0,NULL,NULL,1772451596.0);
INSERT INTO "instances" VALUES('shop-prod/europe-west1-b/node-5','5',1,'tills','europe-west1','spot-pool','e2-standard-8',1772449856.0,1,0,1,0,0,0,1,'insert-5',1772451456.0,NULL,NULL,1772451556.0);
INSERT INTO "instances" VALUES('shop-prod/europe-west1-b/node-6','6',0,'unknown','unknown','unknown','unknown',1769857856.0,0,0,0,0,0,0,1,'',NULL,NULL,NULL,1772451556.0);
INSERT INTO "instances" VALUES('shop-prod/europe-west1-b/node-7','104',1,'tills','europe-west1','spot-pool','e2-standard-8',1772449856.0,1,0,1,0,0,0,0,'insert-104',1772451160.0,NULL,NULL,1772451161.0);
INSERT INTO "instances" VALUES('shop-prod/europe-west1-b/node-7','105',1,'tills','europe-west1','spot-pool','e2-standard-8',1772449856.0,1,0,1,0,0,0,0,'insert-105',1772451161.0,NULL,NULL,1772451162.0);
INSERT INTO "instances" VALUES('shop-prod/europe-west1-b/node-7','106',1,'tills','europe-west1','spot-pool','e2-standard-8',1772449856.0,1,0,1,0,0,0,0,'insert-106',1772451162.0,NULL,NULL,1772451163.0);
INSERT INTO "instances" VALUES('shop-prod/europe-west1-b/node-7','107',1,'tills','europe-west1','spot-pool','e2-standard-8',1772449856.0,1,0,1,0,0,0,0,'insert-107',1772451163.0,NULL,NULL,1772451164.0);
INSERT INTO "instances" VALUES('shop-prod/europe-west1-b/node-7','108',1,'tills','europe-west1','spot-pool','e2-standard-8',1772449856.0,1,0,1,0,0,0,0,'insert-108',1772451164.0,NULL,NULL,1772451165.0);
INSERT INTO "instances" VALUES('shop-prod/europe-west1-b/node-7','109',1,'tills','europe-west1','spot-pool','e2-standard-8',1772449856.0,1,0,1,0,0,0,0,'insert-109',1772451165.0,NULL,NULL,1772451166.0);
INSERT INTO "instances" VALUES('shop-prod/europe-west1-b/node-7','110',1,'tills','europe-west1','spot-pool','e2-standard-8',1772449856.0,1,0,1,0,0,0,0,'insert-110',1772451166.0,NULL,NULL,1772451167.0);
INSERT INTO "instances" VALUES('shop-prod/europe-west1-b/node-7','111',1,'tills','europe-west1','spot-pool','e2-standard-8',1772451596.0,1,0,1,0,0,0,0,'insert-111',1772451167.0,NULL,NULL,1772451596.0);
INSERT INTO "instances" VALUES('shop-prod/europe-west1-b/node-8','8',1,'tills','europe-west1','spot-pool','e2-standard-8',1772451596.0,1,0,1,0,0,0,0,'insert-8',1772451566.0,NULL,NULL,1772451596.0);
INSERT INTO "instances" VALUES('shop-prod/europe-west1-b/node-9','9',0,'unknown','unknown','unknown','unknown',1772451657.0,1,0,0,0,1,0,0,'',NULL,NULL,1772448656.0,1772448656.0);
CREATE TABLE label_sets (
    project TEXT NOT NULL,
    cluster TEXT NOT NULL,
    cluster_location TEXT NOT NULL,
    node_pool TEXT NOT NULL,
    zone TEXT NOT NULL,
    machine_type TEXT NOT NULL,
    interruptions INTEGER NOT NULL,
    created INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    instances INTEGER NOT NULL,
    instance_seconds REAL NOT NULL,
    changed_at REAL NOT NULL,
    released INTEGER NOT NULL,
    PRIMARY KEY (project, cluster, cluster_location, node_pool, zone, machine_type)
) WITHOUT ROWID;
INSERT INTO "label_sets" VALUES('shop-prod','lab','europe-west1','lab-pool','europe-west1-b','n2-standard-4',1,1,0,1,1800.0,1772451656.0,1);
INSERT INTO "label_sets" VALUES('shop-prod','tills','europe-west1','spot-pool','europe-west1-b','e2-standard-8',1,17,1,1,1800.0,1772451666.0,1);
INSERT INTO "label_sets" VALUES('shop-prod','unknown','unknown','unknown','europe-west1-b','unknown',2,0,0,0,0.0,1772451657.0,1);
CREATE TABLE ledger (
    number INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    key TEXT NOT NULL,
    recorded_at REAL NOT NULL,
    name TEXT NOT NULL,
    identity TEXT NOT NULL,
    cluster TEXT NOT NULL,
    cluster_location TEXT NOT NULL,
    node_pool TEXT NOT NULL,
    machine_type TEXT NOT NULL,
    counted_as TEXT NOT NULL,
    age_seconds REAL,
    attributed INTEGER NOT NULL,
    released_by TEXT,
    found_by TEXT NOT NULL
);
INSERT INTO "ledger" VALUES(1,1770723656.0,'interrupted node-11 11 1770723656.0',1772449856.0,'shop-prod/europe-west1-b/node-11','11','unknown','unknown','unknown','unknown','',NULL,0,NULL,'push');
INSERT INTO "ledger" VALUES(2,1772451596.0,'interrupted node-2 2 1772451596.0',1772449856.0,'shop-prod/europe-west1-b/node-2','2','lab','europe-west1','lab-pool','n2-standard-4','lab',440.0,1,NULL,'push');
INSERT INTO "ledger" VALUES(3,1772451606.0,'interrupted node-7 103 1772451606.0',1772449856.0,'shop-prod/europe-west1-b/node-7','103','tills','europe-west1','spot-pool','e2-standard-8','tills',447.0,1,NULL,'push');
INSERT INTO "ledger" VALUES(4,1772448656.0,'interrupted node-14 14 1772448656.0',1772451657.0,'shop-prod/europe-west1-b/node-14','14','tills','europe-west1','spot-pool','e2-standard-8','unknown',NULL,1,'expiry','push');
INSERT INTO "ledger" VALUES(5,1772448656.0,'interrupted node-9 9 1772448656.0',1772451657.0,'shop-prod/europe-west1-b/node-9','9','unknown','unknown','unknown','unknown','unknown',NULL,0,'expiry','push');
CREATE TABLE lifetimes (
    cluster TEXT NOT NULL,
    machine_type TEXT NOT NULL,
    buckets TEXT NOT NULL,
    sum_seconds REAL NOT NULL,
    changed_at REAL NOT NULL,
    released INTEGER NOT NULL,
    PRIMARY KEY (cluster, machine_type)
) WITHOUT ROWID;
INSERT INTO "lifetimes" VALUES('lab','n2-standard-4','[0,0,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0]',440.0,1772449856.0,1);
INSERT INTO "lifetimes" VALUES('tills','e2-standard-8','[0,0,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0]',447.0,1772449856.0,1);
INSERT INTO "lifetimes" VALUES('unknown','unknown','[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]',0.0,1772451657.0,1);
CREATE TABLE listings (
    project TEXT PRIMARY KEY,
    began REAL NOT NULL,
    whole_at REAL
) WITHOUT ROWID;
INSERT INTO "listings" VALUES('shop-prod',1772451596.0,1772451596.0);
CREATE TABLE pending (
    key TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    id TEXT NOT NULL,
    at REAL NOT NULL,
    until REAL NOT NULL,
    found_by TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO "pending" VALUES('interrupted node-10 10 1772451666.0','shop-prod/europe-west1-b/node-10','10',1772451666.0,1772194266.0,'push');
CREATE TABLE projects (
    number TEXT PRIMARY KEY,
    id TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO "projects" VALUES('123456789','shop-prod');
CREATE INDEX instances_only_deleted ON instances (recorded_at, deleted, kind, interrupted_at, failed) WHERE deleted AND kind = 0 AND interrupted_at IS NULL AND NOT failed;
CREATE INDEX archived_only_deleted ON archived_instances (recorded_at, deleted, kind, interrupted_at, failed) WHERE deleted AND kind = 0 AND interrupted_at IS NULL AND NOT failed;
CREATE INDEX pending_by_name ON pending (name);
CREATE INDEX pending_by_end ON pending (until);
CREATE INDEX ledger_by_time ON ledger (at);
CREATE INDEX ledger_unattributed ON ledger (name, identity) WHERE NOT attributed;
CREATE INDEX ledger_past ON ledger (key) WHERE counted_as = '';
COMMIT;
