CREATE TABLE writer (id BIGINT NOT NULL PRIMARY KEY, epoch BIGINT NOT NULL);
INSERT INTO writer (id, epoch) VALUES (1, 0);
CREATE TABLE ledger_head (
  tenant TEXT NOT NULL, log TEXT NOT NULL, size BIGINT NOT NULL, prev BYTES NOT NULL,
  time BIGINT NOT NULL, frontier TEXT NOT NULL, checkpoint TEXT NOT NULL,
  PRIMARY KEY (tenant, log));
CREATE TABLE receipt (
  tenant TEXT NOT NULL, log TEXT NOT NULL, idx BIGINT NOT NULL,
  envelope BYTES NOT NULL, leaf BYTES NOT NULL,
  PRIMARY KEY (tenant, log, idx));
CREATE TABLE tree_hash (
  tenant TEXT NOT NULL, log TEXT NOT NULL, level BIGINT NOT NULL, idx BIGINT NOT NULL,
  hash BYTES NOT NULL,
  PRIMARY KEY (tenant, log, level, idx));
CREATE TABLE entity (
  tenant TEXT NOT NULL, log TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL,
  version BIGINT NOT NULL, status TEXT NOT NULL, due_at BIGINT, body TEXT NOT NULL,
  PRIMARY KEY (tenant, log, kind, id));
CREATE INDEX entity_due ON entity (due_at) WHERE due_at IS NOT NULL;
CREATE TABLE content (
  tenant TEXT NOT NULL, id TEXT NOT NULL, part TEXT NOT NULL, class TEXT NOT NULL,
  day BIGINT NOT NULL, sealed BYTES NOT NULL,
  PRIMARY KEY (tenant, id, part));
CREATE TABLE content_key (
  tenant TEXT NOT NULL, class TEXT NOT NULL, day BIGINT NOT NULL, wrapped BYTES NOT NULL,
  PRIMARY KEY (tenant, class, day));
CREATE TABLE blob (
  tenant TEXT NOT NULL, digest BYTES NOT NULL, bytes BYTES NOT NULL,
  PRIMARY KEY (tenant, digest));
