//! Whatever the administrator of a database server sets for all sessions, no row and no end of a value is left out with no error: what Blat does not
//! see, it deletes.

use blat_tests::database::PASSWORD;
use blat_tests::{Database, Kind, Lab};

/// Everything that is not wanted goes at once.
const DELETES: &str = "aging: immediate\nmax_delete: 100%";

/// A lab with a database that wants these versions of core, all of which are at the target.
fn lab(name: &str, kind: Kind, versions: &[&str]) -> (Lab, Database) {
    let lab = Lab::new(name);
    for version in versions {
        lab.package("core", version, |p| p.file("a", version));
    }
    let database = Database::new(&lab, kind);
    let packages: Vec<(&str, &str)> = versions.iter().map(|version| ("core", *version)).collect();
    database.release(10, "Lab 1", "open", &packages);
    configure(&lab, &database, "");
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.visible().len(), versions.len());
    (lab, database)
}

/// Packages come from this query, where there is one.
fn configure(lab: &Lab, database: &Database, query: &str) {
    let queries = match query {
        "" => String::new(),
        query => format!(", queries: {{packages: \"{query}\"}}"),
    };
    lab.config("perth", &format!("{}\n{DELETES}", database.config_with(PASSWORD, &queries)));
}

#[test]
fn no_setting_of_a_mysql_server_for_all_sessions_hides_a_row_or_the_end_of_a_value() {
    let versions: Vec<String> = (1..=12).map(|number| format!("1.{number}")).collect();
    let versions: Vec<&str> = versions.iter().map(String::as_str).collect();
    let (lab, database) = lab("mysettings", Kind::MariaDb, &versions);
    let all = lab.visible();
    let counting = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12) \
                    SELECT 10 AS release_id, 'core' AS package_name, CONCAT('1.', i) AS package_version FROM n";
    let joined = "SELECT release_id, package_name, MIN(list) AS package_version FROM (SELECT p.release_id, p.package_name, \
                  p.package_version AS own, (SELECT SUBSTRING_INDEX(GROUP_CONCAT(o.package_version ORDER BY o.package_version = \
                  p.package_version), ',', -1) FROM release_package o) AS list FROM release_package p) AS q \
                  GROUP BY release_id, package_name, own";
    // Rows of a table with a history, from before there were any.
    let historic =
        "ALTER TABLE release_package ADD SYSTEM VERSIONING; SET GLOBAL system_versioning_asof = '2020-01-01 00:00:00'";
    for (setting, query) in [
        ("SET GLOBAL sql_select_limit = 5", ""),
        ("SET GLOBAL init_connect = 'SET SESSION sql_select_limit = 5'", ""),
        ("SET GLOBAL sql_select_limit = 5", "SELECT * FROM release_package"),
        ("SET GLOBAL max_recursive_iterations = 3", counting),
        ("SET GLOBAL group_concat_max_len = 20", joined),
        ("SET GLOBAL character_set_server = latin1", ""),
        (historic, ""),
    ] {
        database.sql(setting);
        configure(&lab, &database, query);
        lab.agent_once("perth").expect_success();
        assert_eq!(lab.visible(), all, "{setting}");
    }
}

#[test]
fn no_setting_of_a_postgres_role_hides_a_row() {
    let (lab, database) = lab("pgsettings", Kind::Postgres, &["1.1", "1.10"]);
    let both = ["core@1.1", "core@1.10"];
    // With this limit, an index of words gives some of the rows that it knows.
    let limit = "SELECT r.release_id, r.package_name, CASE current_setting('gin_fuzzy_search_limit') WHEN '0' THEN r.package_version \
                 ELSE '1.1' END AS package_version FROM release_package r";
    database.sql("ALTER ROLE blat SET gin_fuzzy_search_limit = 1; ALTER DATABASE rm SET client_encoding = latin1");
    configure(&lab, &database, limit);
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.visible(), both);

    configure(&lab, &database, "");
    database.sql(
        "ALTER TABLE release_package ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY only_some ON release_package USING (package_version = current_setting('app.wanted', true)); \
         ALTER ROLE blat SET app.wanted = '1.1'",
    );
    lab.agent_once("perth").expect(1).says("row-level security").says("give its account BYPASSRLS");
    assert_eq!(lab.visible(), both, "what a policy hides is not gone");
    database.sql("CREATE VIEW seen AS SELECT * FROM release_package; GRANT SELECT ON seen TO blat");
    configure(&lab, &database, "SELECT * FROM seen");
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.visible(), both, "a view of the owner's shows all");
    configure(&lab, &database, "");
    database.sql("ALTER ROLE blat BYPASSRLS");
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.visible(), both);
}

/// An administrator who rescues a server has it give what is left: rows on a damaged page vanish then, and the server counts as many.
#[test]
fn a_postgres_server_that_leaves_out_what_is_damaged_takes_nothing_until_it_is_put_right() {
    let (lab, database) = lab("pgrescue", Kind::Postgres, &["1.1", "1.10"]);
    database.sql("DELETE FROM release_package WHERE package_version = '1.10'");
    for setting in ["zero_damaged_pages", "ignore_checksum_failure"] {
        database.sql(&format!("ALTER ROLE blat SET {setting} = on"));
        let why = format!("the server has {setting} = on: it leaves out rows that are damaged");
        lab.agent_once("perth").expect(1).says(&why).says("restore the damaged tables from a backup");
        assert_eq!(lab.visible(), ["core@1.1", "core@1.10"], "{setting}");
        database.sql(&format!("ALTER ROLE blat RESET {setting}"));
    }
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.visible(), ["core@1.1"]);
}

#[test]
fn a_mysql_server_that_leaves_out_what_is_damaged_takes_nothing_until_it_is_put_right() {
    let (lab, database) = lab("myrescue", Kind::MariaDb, &["1.1", "1.10"]);
    database.sql("DELETE FROM release_package WHERE package_version = '1.10'");
    database.restart_with("--innodb-force-recovery=1");
    configure(&lab, &database, "");
    let why = "the server has innodb_force_recovery = 1: it leaves out rows that are damaged";
    lab.agent_once("perth").expect(1).says(why).says("take that setting away");
    assert_eq!(lab.visible(), ["core@1.1", "core@1.10"]);
    database.restart_with("--innodb-force-recovery=0");
    configure(&lab, &database, "");
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.visible(), ["core@1.1"]);
}

/// What is changed in steps, below a lock, while a sync begins.
fn nothing_goes_while(lab: &Lab, database: &Database, statements: &str) {
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| database.sql(statements));
        std::thread::sleep(std::time::Duration::from_secs(1));
        lab.agent_once("perth").expect_success();
        changing.join().expect("the statements succeed");
    });
    assert_eq!(lab.visible(), ["core@1.1", "core@1.2"], "both were wanted before and after it");
    assert_eq!(lab.package_list(), ["core 1.1", "core 1.2"]);
}

#[test]
fn a_mysql_transaction_that_waited_for_a_lock_takes_nothing_that_the_writer_put_back() {
    let (lab, database) = lab("mylocks", Kind::MariaDb, &["1.1", "1.2"]);
    let row = "INSERT INTO release_package VALUES (10, 'core', '1.1')";
    let delete = "DELETE FROM release_package WHERE package_version = '1.1'";
    let statements = format!("LOCK TABLES release_package WRITE; {delete}; SELECT SLEEP(4); {row}; UNLOCK TABLES;");
    nothing_goes_while(&lab, &database, &statements);
    database.sql(delete);
    lab.agent_once("perth").expect_success();
    assert_eq!((lab.visible(), lab.package_list()), (vec!["core@1.2".to_owned()], vec!["core 1.2".to_owned()]));
}

/// A job that goes round and round, so that a second answer comes in step with it, two seconds after the first.
fn in_step(round: &str) -> String {
    round.repeat(5)
}

#[test]
fn no_mysql_answer_that_waited_for_a_lock_counts_whichever_it_is() {
    let (lab, database) = lab("mysteps", Kind::MariaDb, &["1.1", "1.2"]);
    configure(&lab, &database, "SELECT release_id, package_name, package_version FROM release_package");
    nothing_goes_while(
        &lab,
        &database,
        &in_step(
            "LOCK TABLES release_package WRITE; DELETE FROM release_package WHERE package_version = '1.1'; SELECT SLEEP(2); \
             INSERT INTO release_package VALUES (10, 'core', '1.1'); UNLOCK TABLES; SELECT SLEEP(1);",
        ),
    );
}

/// Blat may read the view, and not the tables.
const IN_TWO_TABLES: &str = "\
    ALTER TABLE release_package RENAME TO first_package; CREATE TABLE third_package (LIKE first_package);
    WITH moved AS (DELETE FROM first_package WHERE package_version = '1.1' RETURNING *)
    INSERT INTO third_package SELECT * FROM moved;
    CREATE VIEW release_package AS SELECT * FROM first_package UNION ALL SELECT * FROM third_package;
    GRANT SELECT ON release_package TO blat;";

#[test]
fn a_postgres_transaction_that_waited_for_a_lock_takes_nothing_that_the_writer_put_back() {
    let (lab, database) = lab("pglocks", Kind::Postgres, &["1.1", "1.2"]);
    database.sql(IN_TWO_TABLES);
    let statements = "BEGIN; TRUNCATE third_package; INSERT INTO third_package VALUES (10, 'core', '1.1'); \
                      SELECT pg_sleep(4); COMMIT;";
    nothing_goes_while(&lab, &database, statements);
    // A site's own query is locked by nobody beforehand.
    configure(&lab, &database, "SELECT release_id, package_name, package_version FROM release_package");
    nothing_goes_while(&lab, &database, statements);
    database.sql("TRUNCATE third_package");
    lab.agent_once("perth").expect_success();
    assert_eq!((lab.visible(), lab.package_list()), (vec!["core@1.2".to_owned()], vec!["core 1.2".to_owned()]));
}

#[test]
fn no_postgres_answer_that_waited_for_a_lock_counts_whichever_it_is() {
    let (lab, database) = lab("pgsteps", Kind::Postgres, &["1.1", "1.2"]);
    database.sql(IN_TWO_TABLES);
    configure(&lab, &database, "SELECT release_id, package_name, package_version FROM release_package");
    nothing_goes_while(
        &lab,
        &database,
        &in_step(
            "BEGIN; TRUNCATE third_package; INSERT INTO third_package VALUES (10, 'core', '1.1'); SELECT pg_sleep(2); COMMIT; \
             SELECT pg_sleep(1);",
        ),
    );
}

/// Blat held one table, and waited for another that an administrator held, who wanted the first.
#[test]
fn no_transaction_of_postgres_is_rolled_back_for_blat() {
    let (lab, database) = lab("pgdeadlock", Kind::Postgres, &["1.1", "1.2"]);
    let statements = "BEGIN; LOCK TABLE release_package; SELECT pg_sleep(3); LOCK TABLE project; COMMIT;";
    nothing_goes_while(&lab, &database, statements);
}

#[test]
fn a_postgres_index_that_lacks_rows_hides_none() {
    let (lab, database) = lab("pgindex", Kind::Postgres, &["1.1", "1.2"]);
    let ready = |is_ready: bool| {
        database.sql(&format!("UPDATE pg_index SET indisready = {is_ready} WHERE indexrelid = 'lacking'::regclass"));
    };
    database.sql("CREATE INDEX lacking ON release_package (release_id)");
    ready(false);
    database.sql("INSERT INTO release_package SELECT * FROM release_package; ALTER ROLE blat SET enable_seqscan = off");
    ready(true);
    // The row of 1.1 that the index knows goes.
    database.sql("DELETE FROM release_package WHERE ctid = (SELECT min(ctid) FROM release_package WHERE package_version = '1.1')");
    let query = "SELECT release_id, package_name, package_version FROM release_package WHERE release_id = 10";
    configure(&lab, &database, query);
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.visible(), ["core@1.1", "core@1.2"]);
}

/// A crash empties such a table, and no query fails by that.
fn what_a_crash_empties_takes_nothing(kind: Kind, alter: [&str; 2], says: &str) {
    let (lab, database) = lab("crashes", kind, &["1.1", "1.10"]);
    let [lost, kept] = alter.map(|how| format!("ALTER TABLE release_package {how}"));
    database.sql(&lost);
    database.sql("DELETE FROM release_package WHERE package_version = '1.10'");
    lab.agent_once("perth").expect(1).says("release_package").says(says).says("loses all rows in a crash");
    assert_eq!(lab.visible(), ["core@1.1", "core@1.10"]);
    database.sql(&kept);
    lab.agent_once("perth").expect_success();
    assert_eq!(lab.visible(), ["core@1.1"]);
}

#[test]
fn an_unlogged_table_of_postgres_takes_nothing() {
    what_a_crash_empties_takes_nothing(Kind::Postgres, ["SET UNLOGGED", "SET LOGGED"], "UNLOGGED");
}

#[test]
fn a_table_of_mysql_in_memory_takes_nothing() {
    what_a_crash_empties_takes_nothing(Kind::MariaDb, ["ENGINE = MEMORY", "ENGINE = InnoDB"], "MEMORY");
}
