//! Compares the guards of the data with a list of what they must be. Guards are row-level security,
//! policies, triggers, constraints, grants, functions and roles.
//!
//! [`EXPECTED`] lists every guard, one per line. [`facts`] reads the same lines from the system
//! catalogue of Postgres. So the comparison finds a guard that is missing or weaker, and also
//! anything that is not in the list, such as a new table, policy or grant. Every login may read the
//! system catalogue, so this needs no rights of an owner.

use std::collections::BTreeMap;

use sqlx::{Connection, Executor, PgConnection};

use super::{Finding, Invariant};
use crate::database;

/// Every guard of the newest schema: kind, object and definition, separated by ` | `. The test
/// `the_guards_are_what_the_list_says` writes this list with `WRITE_GUARDS=1`. Review each line
/// that changes.
pub const EXPECTED: &str = include_str!("guards.txt");

/// The guards as an invariant, for reports.
pub const INVARIANT: Invariant = Invariant {
    number: "guards",
    promises: "what guards the data is in place",
    query: FACTS,
};

/// What separates the three parts of a line.
const SEPARATOR: &str = " | ";

/// The result of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// What differs from the list; empty if all guards are as they must be.
    Findings(Vec<Finding>),
    /// The guards were not compared. The schema is newer than this program, so its list does not
    /// apply.
    Newer {
        /// The newest migration of the database.
        database: i64,
        /// The newest migration that this program knows.
        program: i64,
    },
}

/// Compares the guards of this database with the list, in a transaction of its own. An older schema
/// is compared, too, and each guard that it lacks is a finding.
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn check(connection: &mut PgConnection) -> sqlx::Result<Comparison> {
    let (database, program) = (
        database::applied(connection).await?.unwrap_or(0),
        database::newest(),
    );
    if database > program {
        return Ok(Comparison::Newer { database, program });
    }
    let facts = facts(connection).await?;
    Ok(Comparison::Findings(compare(EXPECTED, &facts)))
}

/// Reads the guards of this database, as sorted lines in the form of [`EXPECTED`].
///
/// # Errors
/// Returns an error if Postgres fails.
pub async fn facts(connection: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    let mut transaction = connection.begin().await?;
    // With this search path, Postgres prints our names with their schema, whatever the session's
    // settings are. Also, this query then uses no operator or function that somebody has created in
    // `public`.
    transaction
        .execute("SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL statement_timeout = '60s'")
        .await?;
    let mut lines: Vec<String> = sqlx::query_scalar(FACTS)
        .fetch_all(&mut *transaction)
        .await?;
    transaction.rollback().await?;
    lines.sort_unstable();
    Ok(lines)
}

/// Describes in words how the guards of this database differ from the list.
fn compare(expected: &str, facts: &[String]) -> Vec<Finding> {
    let expected: BTreeMap<_, _> = expected.lines().filter_map(parts).collect();
    let found: BTreeMap<_, _> = facts.iter().filter_map(|line| parts(line)).collect();
    let missing = expected
        .iter()
        .filter(|(guard, _)| !found.contains_key(*guard))
        .map(|(&(kind, object), &must)| kind.missing(object, must));
    let differs =
        found.iter().filter_map(
            |(&(kind, object), &is)| match expected.get(&(kind, object)) {
                Some(&must) if must == is => None,
                Some(&must) => Some(kind.differs(object, is, must)),
                None => Some(kind.unlisted(object, is)),
            },
        );
    missing
        .chain(differs)
        .map(|text| Finding {
            invariant: INVARIANT.number,
            text,
        })
        .collect()
}

/// Splits a line into kind, object and definition. A grant has no definition. Returns `None` for a
/// line without an object, such as an empty one.
fn parts(line: &str) -> Option<((Kind<'_>, &str), &str)> {
    let mut parts = line.splitn(3, SEPARATOR);
    let (kind, object) = (parts.next()?, parts.next()?);
    Some(((Kind(kind), object), parts.next().unwrap_or_default()))
}

/// The kind of a guard, such as `policy`. The words for a difference depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind<'a>(&'a str);

impl Kind<'_> {
    /// The words for a guard that the database lacks.
    fn missing(self, object: &str, must: &str) -> String {
        match self.0 {
            "grant" => format!("a grant is missing: {object}"),
            kind => format!("{kind} {object} is missing; it must be: {must}"),
        }
    }

    /// The words for a guard with another definition.
    fn differs(self, object: &str, is: &str, must: &str) -> String {
        let hint = match self.0 {
            "policy" if is.contains("(true)") && !must.contains("(true)") => {
                ". It matches every row"
            }
            "function" if !is.contains("search_path") && must.contains("search_path") => {
                ". Its search_path is not pinned"
            }
            _ => "",
        };
        format!("{} {object} is: {is}; it must be: {must}{hint}", self.0)
    }

    /// The words for what the database has and the list has not.
    fn unlisted(self, object: &str, is: &str) -> String {
        match self.0 {
            "grant" => format!("{object}, which is not allowed"),
            "login" => format!("login {object} acts for Platen and has too many rights: {is}"),
            "membership" | "setting" => format!("{object}: {is}; this is not allowed"),
            "trigger" if is.starts_with("disabled") => format!("trigger {object} is {is}"),
            kind => format!("{kind} {object} is not in the list of guards of this schema: {is}"),
        }
    }
}

/// The query of [`facts`]. It leaves out everything that belongs to an extension. Memberships,
/// logins and settings have a line only if they have too many rights. The four roles always have a
/// line.
const FACTS: &str = r"-- guards::facts
WITH RECURSIVE ours AS (
  SELECT c.oid, c.relname, c.relkind, c.relowner, c.relacl, c.reloptions, c.relrowsecurity, c.relforcerowsecurity FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
), functions AS (
  SELECT p.oid, p.proname, p.prolang, p.prosecdef, p.proconfig, p.prosqlbody, p.prosrc, pg_get_userbyid(p.proowner) AS owner FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
), roles AS (
  SELECT r.oid, r.rolname::text AS name, r.rolcanlogin,
         concat_ws(', ', CASE WHEN rolsuper THEN 'superuser' END, CASE WHEN rolbypassrls THEN 'bypasses row-level security' END,
           CASE WHEN rolcreaterole THEN 'creates roles' END, CASE WHEN rolcreatedb THEN 'creates databases' END,
           CASE WHEN rolreplication THEN 'replicates' END) AS rights
  FROM pg_roles r
), acting AS ( -- who may act as a runtime role, through whatever roles
  SELECT member, roleid FROM pg_auth_members WHERE roleid IN (SELECT oid FROM roles WHERE name IN ('platen_api', 'platen_worker', 'platen_reader'))
  UNION SELECT m.member, a.roleid FROM pg_auth_members m JOIN acting a ON a.member = m.roleid
), logins AS (
  SELECT r.name, concat_ws(', ', nullif(r.rights, ''),
           CASE WHEN pg_has_role(r.oid, (SELECT oid FROM roles WHERE name = 'platen_owner'),
                  CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END) THEN 'may act as platen_owner' END,
           (SELECT 'owns ' || string_agg(c.relname, ', ' ORDER BY c.relname) FROM ours c WHERE c.relowner = r.oid AND c.relkind IN ('r', 'p', 'v', 'm'))) AS has
  FROM roles r WHERE r.rolcanlogin AND r.oid IN (SELECT member FROM acting)
)
SELECT regexp_replace(line, '\s+', ' ', 'g') FROM (
SELECT concat_ws(' | ', 'table', relname, CASE relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' ELSE 'foreign table' END
         || ' of ' || pg_get_userbyid(relowner)
         || CASE WHEN relkind IN ('r', 'p') THEN ', row-level security ' || CASE WHEN NOT relrowsecurity THEN 'off' WHEN relforcerowsecurity THEN 'enabled and forced' ELSE 'enabled, not forced' END ELSE '' END
         || coalesce(', ' || array_to_string(reloptions, ', '), ''))
FROM ours WHERE relkind IN ('r', 'p', 'v', 'm', 'f')
UNION ALL
SELECT concat_ws(' | ', 'policy', polname || ' on ' || c.relname, CASE WHEN polpermissive THEN '' ELSE 'restrictive, ' END
         || CASE polcmd WHEN 'r' THEN 'select' WHEN 'a' THEN 'insert' WHEN 'w' THEN 'update' WHEN 'd' THEN 'delete' ELSE 'all' END
         || ' by ' || (SELECT string_agg(CASE role WHEN 0 THEN 'everybody' ELSE pg_get_userbyid(role)::text END, ', ' ORDER BY 1) FROM unnest(polroles) role)
         || coalesce(', of rows with (' || pg_get_expr(polqual, polrelid) || ')', '') || coalesce(', to rows with (' || pg_get_expr(polwithcheck, polrelid) || ')', ''))
FROM pg_policy JOIN ours c ON c.oid = polrelid
UNION ALL
SELECT concat_ws(' | ', 'trigger', tgname || ' on ' || c.relname, CASE tgenabled WHEN 'O' THEN 'enabled' WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'disabled, but for replicas' ELSE 'always enabled' END
         || ': ' || pg_get_triggerdef(t.oid))
FROM pg_trigger t JOIN ours c ON c.oid = t.tgrelid WHERE NOT tgisinternal
UNION ALL
SELECT concat_ws(' | ', 'trigger', conname || ' on ' || c.relname || ', which holds this reference' , 'disabled')
FROM pg_trigger t JOIN ours c ON c.oid = t.tgrelid JOIN pg_constraint k ON k.oid = t.tgconstraint WHERE tgisinternal AND tgenabled <> 'O' GROUP BY conname, c.relname
UNION ALL
SELECT concat_ws(' | ', 'constraint', conname || ' on ' || c.relname, pg_get_constraintdef(k.oid)) FROM pg_constraint k JOIN ours c ON c.oid = k.conrelid WHERE contype IN ('c', 'f', 'p', 'u', 'x')
UNION ALL
SELECT concat_ws(' | ', 'unique index', c.relname || ' on ' || t.relname, CASE WHEN indisvalid AND indisready THEN '' ELSE 'not valid: ' END || pg_get_indexdef(c.oid))
FROM pg_index i JOIN ours c ON c.oid = i.indexrelid JOIN ours t ON t.oid = i.indrelid WHERE indisunique AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = c.oid)
UNION ALL
SELECT concat_ws(' | ', 'rule', rulename || ' on ' || c.relname, pg_get_ruledef(w.oid)) FROM pg_rewrite w JOIN ours c ON c.oid = w.ev_class WHERE rulename <> '_RETURN'
UNION ALL
SELECT concat_ws(' | ', 'grant', CASE grantee WHEN 0 THEN 'everybody' ELSE pg_get_userbyid(grantee)::text END || ' may ' || privilege_type || coalesce(' (' || attname || ')', '') || ' on ' || relname
         || CASE WHEN is_grantable THEN ' and pass that on' ELSE '' END)
FROM (SELECT c.relname, NULL::name AS attname, c.relowner, a.grantee, a.privilege_type, a.is_grantable FROM ours c, aclexplode(c.relacl) a
      UNION ALL SELECT c.relname, f.attname, c.relowner, a.grantee, a.privilege_type, a.is_grantable FROM ours c JOIN pg_attribute f ON f.attrelid = c.oid AND NOT f.attisdropped, aclexplode(f.attacl) a) given
WHERE grantee <> relowner
UNION ALL
SELECT concat_ws(' | ', 'grant', CASE grantee WHEN 0 THEN 'everybody' ELSE pg_get_userbyid(grantee)::text END || ' may create objects in schema public' || CASE WHEN is_grantable THEN ' and pass that on' ELSE '' END)
FROM pg_namespace n, aclexplode(n.nspacl) a WHERE nspname = 'public' AND privilege_type = 'CREATE' AND grantee <> nspowner
UNION ALL
SELECT concat_ws(' | ', 'function', p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')', lanname || ' of ' || p.owner || CASE WHEN prosecdef THEN ', with its owner''s rights' ELSE '' END
         || coalesce(', ' || array_to_string(proconfig, ', '), '')
         || CASE WHEN prosqlbody IS NULL THEN ', body ' || encode(sha256(convert_to(prosrc, 'UTF8')), 'hex') ELSE ', ' || pg_get_function_sqlbody(p.oid) END)
FROM functions p JOIN pg_language l ON l.oid = p.prolang
UNION ALL
SELECT concat_ws(' | ', 'role', name, CASE WHEN rolcanlogin THEN 'can log in' ELSE 'cannot log in' END || coalesce(', ' || nullif(rights, ''), '')) FROM roles
WHERE name IN ('platen_owner', 'platen_api', 'platen_worker', 'platen_reader')
UNION ALL
SELECT concat_ws(' | ', 'membership', a.name, 'it may act as ' || b.name) FROM pg_auth_members m JOIN roles a ON a.oid = m.member JOIN roles b ON b.oid = m.roleid
WHERE a.name IN ('platen_owner', 'platen_api', 'platen_worker', 'platen_reader')
UNION ALL
SELECT concat_ws(' | ', 'login', name, has) FROM logins WHERE has <> ''
UNION ALL
SELECT concat_ws(' | ', 'setting', coalesce((SELECT name FROM roles WHERE oid = setrole), 'every login'), 'it starts with ' || setting)
FROM pg_db_role_setting, unnest(setconfig) setting
WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) AND setting ~ '^(session_replication_role|platen\.)'
) facts(line)
";

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(kind: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
        EXPECTED
            .lines()
            .filter_map(parts)
            .filter(move |((found, _), _)| found.0 == kind)
            .map(|((_, object), is)| (object, is))
    }

    /// A program writes the list, so this test says what it must never contain.
    #[test]
    fn the_list_itself_allows_no_weakness() {
        for (table, is) in lines("table") {
            let guarded = is.contains("row-level security enabled and forced")
                || is.contains("security_invoker");
            assert!(guarded || table == "_sqlx_migrations", "{table}: {is}");
            assert!(is.contains("of platen_owner"), "{table}: {is}");
        }
        for (grant, _) in lines("grant") {
            for never in [
                "TRUNCATE",
                "TRIGGER",
                "REFERENCES",
                "everybody",
                "pass that on",
            ] {
                assert!(!grant.contains(never), "{grant}");
            }
            for record in ["transfers", "operator_actions"] {
                let rewrites = grant.contains("UPDATE") || grant.contains("DELETE");
                assert!(!(rewrites && grant.ends_with(record)), "{grant}");
            }
        }
        for (policy, is) in lines("policy") {
            assert!(!is.contains("by everybody"), "{policy}: {is}");
        }
        for (trigger, is) in lines("trigger") {
            assert!(is.starts_with("enabled"), "{trigger}: {is}");
        }
        for (function, is) in lines("function") {
            let pinned = is.contains("search_path=public, pg_temp") || is.contains(", RETURN ");
            assert!(pinned && !is.contains("owner's rights"), "{function}: {is}");
        }
        for (constraint, is) in lines("constraint") {
            // These do not check rows of older versions; they check each new row.
            let known = ["traceparent_is_one", "movements_are_bounded"];
            let known = known.iter().any(|name| constraint.starts_with(name));
            assert!(known || !is.contains("NOT VALID"), "{constraint}: {is}");
        }
        for (role, is) in lines("role") {
            assert_eq!(is, "cannot log in", "{role}");
        }
        assert_eq!(lines("role").count(), 4);
        for never in ["membership", "login", "setting", "rule"] {
            assert_eq!(lines(never).count(), 0, "{never}");
        }
    }

    #[test]
    fn a_difference_is_reported_in_words() {
        let expected = "table | jobs | row-level security enabled and forced\npolicy | own on jobs | all by platen_api, of rows with (mine)\ngrant | platen_api may SELECT on jobs";
        let check = |facts: &[&str], says: &str| {
            let facts: Vec<String> = facts.iter().map(|&line| line.to_owned()).collect();
            let found = compare(expected, &facts);
            assert!(
                found.iter().any(|finding| finding.text == says),
                "{says}: {found:?}"
            );
        };
        check(
            &["table | jobs | row-level security off"],
            "table jobs is: row-level security off; it must be: row-level security enabled and forced",
        );
        check(
            &["policy | own on jobs | all by platen_api, of rows with (true)"],
            "policy own on jobs is: all by platen_api, of rows with (true); it must be: all by platen_api, of rows with (mine). It matches every row",
        );
        check(&[], "a grant is missing: platen_api may SELECT on jobs");
        check(
            &["grant | platen_api may TRUNCATE on jobs"],
            "platen_api may TRUNCATE on jobs, which is not allowed",
        );
        let all: Vec<String> = expected.lines().map(str::to_owned).collect();
        assert_eq!(compare(expected, &all), []);
    }
}
