//! Each safeguard of the hop is what its test holds it for: without it, that test is red.

use std::process::{Command, Stdio};

const WITHOUT: [(&str, &str); 6] = [
    (
        "hop-without-proof",
        "hop::a_foreign_server_at_a_reused_address_never_sees_a_request",
    ),
    (
        "hop-for-anybody",
        "hop::another_task_at_a_reused_address_never_answers_and_is_ejected",
    ),
    (
        "hop-unstripped",
        "hop::an_application_cannot_say_that_a_request_was_not_delivered_to_it",
    ),
    (
        "hop-unstripped",
        "hop::a_foreign_client_says_nothing_by_the_fields_of_a_hop",
    ),
    (
        "hop-blind-verdict",
        "hop_retries::a_post_that_an_application_read_is_not_sent_again_and_a_get_is",
    ),
    (
        "hop-deaf-verdict",
        "hop_retries::a_post_that_no_application_saw_is_delivered_by_another_task_once",
    ),
];

#[test]
#[cfg_attr(
    not(debug_assertions),
    ignore = "a release build leaves no safeguard out"
)]
fn without_its_safeguard_a_test_of_the_hop_is_red() {
    let this = std::env::current_exe().expect("it runs");
    for (mutant, test) in WITHOUT {
        let mut again = Command::new(&this);
        again
            .args(["--exact", test])
            .env("OUTRIGGER_MUTANT", mutant);
        again.stdout(Stdio::piped()).stderr(Stdio::null());
        let output = again.output().expect("it runs again");
        let said = String::from_utf8_lossy(&output.stdout);
        let red = said.contains("0 passed; 1 failed");
        assert!(red && !output.status.success(), "{mutant}: {test}: {said}");
    }
}
