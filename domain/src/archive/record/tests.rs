//! What is written, and what is read back.

use super::*;

fn owner(home: u8, target: &str) -> Owner {
    Owner { home: RandomId::from_random([home; 16]), target: target.parse().expect("a name") }
}

fn record(archive: u8, home: u8, target: &str) -> Record {
    Record { archive: RandomId::from_random([archive; 16]), owner: owner(home, target) }
}

#[test]
fn what_is_written_is_read_back_and_whatever_else_is_malformed() {
    let perth = record(0x0a, 2, "perth");
    let text = perth.render();
    assert_eq!(text, format!("{}\n{} perth\n", "0a".repeat(16), "02".repeat(16)));
    assert_eq!(Found::read(&text), Found::Record(perth.clone()));
    assert_eq!(Found::read(&text.replace('\n', " ")), Found::Record(perth), "as a line of an answer has it");
    let id = "ab".repeat(16);
    for bad in [
        "",
        "\n",
        &id,
        &format!("{id}\n{id}"),
        &format!("{id}\n{id} perth x"),
        &format!("{id}\n{id} ../perth"),
        &format!("{}\n{id} perth", id.to_uppercase()),
        &format!("+{}\n{id} perth", &id[1..]),
        &format!("{id}0\n{id} perth"),
    ] {
        assert!(matches!(Found::read(bad), Found::Malformed(_)), "{bad:?}");
    }
    let Found::Malformed(why) = Found::read("\u{1b}[2J") else { panic!("malformed") };
    assert!(!why.contains('\u{1b}'), "{why}");
}
