WITH t AS (
  SELECT c.oid, c.relname, c.relkind, c.relpersistence, c.relrowsecurity, c.relforcerowsecurity
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S'))
SELECT relname::text, line FROM (
  SELECT relname, concat_ws(' ', 'table', relkind, relpersistence, relrowsecurity,
    relforcerowsecurity) AS line FROM t
  UNION ALL
  SELECT t.relname, concat_ws(' ', 'column', a.attname, format_type(a.atttypid, a.atttypmod),
    a.attnotnull, co.collname, pg_get_expr(d.adbin, d.adrelid))
  FROM t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_collation co ON co.oid = a.attcollation
  LEFT JOIN pg_attrdef d ON d.adrelid = t.oid AND d.adnum = a.attnum
  UNION ALL
  SELECT t.relname, concat_ws(' ', pg_get_indexdef(i.indexrelid), i.indisvalid)
  FROM t JOIN pg_index i ON i.indrelid = t.oid
  UNION ALL
  SELECT t.relname, concat_ws(' ', 'constraint', c.conname, pg_get_constraintdef(c.oid))
  FROM t JOIN pg_constraint c ON c.conrelid = t.oid AND c.contype IN ('p', 'u', 'c', 'f', 'x')
  UNION ALL
  SELECT t.relname, concat_ws(' ', 'policy', p.polname, p.polcmd, p.polpermissive,
    (SELECT string_agg(r.rolname, ',' ORDER BY r.rolname)
      FROM pg_roles r WHERE r.oid = ANY (p.polroles)),
    pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
  FROM t JOIN pg_policy p ON p.polrelid = t.oid
  UNION ALL
  SELECT t.relname, pg_get_triggerdef(g.oid)
  FROM t JOIN pg_trigger g ON g.tgrelid = t.oid AND NOT g.tgisinternal
  UNION ALL
  SELECT t.relname, concat_ws(' ', 'rule', r.rulename, pg_get_ruledef(r.oid))
  FROM t JOIN pg_rewrite r ON r.ev_class = t.oid
  UNION ALL
  SELECT t.relname, concat_ws(' ', 'grant', r.rolname, p.privilege)
  FROM t CROSS JOIN pg_roles r
  CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE'), ('TRUNCATE'))
    AS p (privilege)
  WHERE t.relkind <> 'S' AND r.rolname IN ('tally_writer', 'tally_reader')
    AND has_table_privilege(r.oid, t.oid, p.privilege)) said
ORDER BY 1, 2
