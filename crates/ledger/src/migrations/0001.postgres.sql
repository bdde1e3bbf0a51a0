-- Who writes: an empty owner has let go. The counter moves while the owner lives.
CREATE TABLE lease (
  id BIGINT NOT NULL PRIMARY KEY, epoch BIGINT NOT NULL, owner TEXT NOT NULL,
  address TEXT NOT NULL, beat BIGINT NOT NULL);
INSERT INTO lease (id, epoch, owner, address, beat) VALUES (1, 0, '', '', 0);

GRANT USAGE ON SCHEMA THE_SCHEMA TO tally_writer, tally_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA THE_SCHEMA TO tally_writer;
-- The log is only ever added to.
GRANT INSERT ON receipt, tree_hash TO tally_writer;
GRANT INSERT, UPDATE ON ledger_head TO tally_writer;
GRANT INSERT, UPDATE, DELETE ON entity, content TO tally_writer;
GRANT INSERT, DELETE ON content_key TO tally_writer;
GRANT INSERT ON blob TO tally_writer;
GRANT UPDATE ON writer, lease TO tally_writer;
GRANT SELECT ON
  ledger_head, receipt, tree_hash, entity, content, content_key, blob TO tally_reader;

-- A reader sees the rows of the tenant that its transaction names, and none without a name.
ALTER TABLE ledger_head ENABLE ROW LEVEL SECURITY;
ALTER TABLE ledger_head FORCE ROW LEVEL SECURITY;
CREATE POLICY writes ON ledger_head TO tally_writer USING (true) WITH CHECK (true);
CREATE POLICY reads ON ledger_head FOR SELECT TO tally_reader
  USING (tenant = current_setting('tally.tenant', true));
ALTER TABLE receipt ENABLE ROW LEVEL SECURITY;
ALTER TABLE receipt FORCE ROW LEVEL SECURITY;
CREATE POLICY writes ON receipt TO tally_writer USING (true) WITH CHECK (true);
CREATE POLICY reads ON receipt FOR SELECT TO tally_reader
  USING (tenant = current_setting('tally.tenant', true));
ALTER TABLE tree_hash ENABLE ROW LEVEL SECURITY;
ALTER TABLE tree_hash FORCE ROW LEVEL SECURITY;
CREATE POLICY writes ON tree_hash TO tally_writer USING (true) WITH CHECK (true);
CREATE POLICY reads ON tree_hash FOR SELECT TO tally_reader
  USING (tenant = current_setting('tally.tenant', true));
ALTER TABLE entity ENABLE ROW LEVEL SECURITY;
ALTER TABLE entity FORCE ROW LEVEL SECURITY;
CREATE POLICY writes ON entity TO tally_writer USING (true) WITH CHECK (true);
CREATE POLICY reads ON entity FOR SELECT TO tally_reader
  USING (tenant = current_setting('tally.tenant', true));
ALTER TABLE content ENABLE ROW LEVEL SECURITY;
ALTER TABLE content FORCE ROW LEVEL SECURITY;
CREATE POLICY writes ON content TO tally_writer USING (true) WITH CHECK (true);
CREATE POLICY reads ON content FOR SELECT TO tally_reader
  USING (tenant = current_setting('tally.tenant', true));
ALTER TABLE content_key ENABLE ROW LEVEL SECURITY;
ALTER TABLE content_key FORCE ROW LEVEL SECURITY;
CREATE POLICY writes ON content_key TO tally_writer USING (true) WITH CHECK (true);
CREATE POLICY reads ON content_key FOR SELECT TO tally_reader
  USING (tenant = current_setting('tally.tenant', true));
ALTER TABLE blob ENABLE ROW LEVEL SECURITY;
ALTER TABLE blob FORCE ROW LEVEL SECURITY;
CREATE POLICY writes ON blob TO tally_writer USING (true) WITH CHECK (true);
CREATE POLICY reads ON blob FOR SELECT TO tally_reader
  USING (tenant = current_setting('tally.tenant', true));
