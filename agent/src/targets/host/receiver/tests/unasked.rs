//! A receiver that says what nothing asked for, or more of it.

use super::*;

#[tokio::test]
async fn what_nothing_asked_for_ends_the_conversation() {
    let lines = |text: &'static str| Reply::Lines(text);
    for (reply, why) in [
        (lines("published other 1\n"), "about other@1"),
        (lines("nonsense\n"), "tells of no package"),
        (lines("published ../p 2\n"), "tells of no package"),
        (lines(""), "nothing asked for"),
        (Reply::Lacks { number: 77 }, "nothing asked for"),
        (Reply::Held { number: 77, files: vec![] }, "nothing asked for"),
        (Reply::Listed { buckets: vec![1] }, "nothing asked for"),
        (Reply::Credit { bytes: 0 }, "nothing asked for"),
    ] {
        let (sent, told) = sent(async |far| {
            far.round().await;
            far.say(Lane::BULK, &Reply::Done).await;
            far.say(Lane::BULK, &lines("published p 2\n")).await;
            far.say(Lane::BULK, &reply).await;
        })
        .await;
        assert!(matches!(&sent, Err(TargetError::Refused(text)) if text.contains(why)), "{reply:?}: {sent:?}");
        assert_eq!(told, [(id("p@2"), Delivery::Published)], "what it said before counts");
    }
}

/// Each of these is right once, or as often as somebody asked.
#[tokio::test]
async fn endless_replies_of_any_kind_come_to_an_end() {
    let once = "published p 2\n";
    let failed = Reply::Failed { class: Class::Refused, text: "no" };
    for reply in
        [Reply::Lines(once), Reply::Lines("leftover x y\n"), failed, Reply::Credit { bytes: 1 }, pong(0), pong(1)]
    {
        let (sent, told) = sent(async |far| {
            far.round().await;
            far.say(Lane::BULK, &Reply::Done).await;
            timeout(Duration::from_secs(60), far.flood(Lane::BULK, &reply)).await.expect("the agent hangs up");
        })
        .await;
        assert!(sent.is_err() && told.len() <= 1, "{reply:?}: {sent:?}");
    }
}

fn pong(beat: u64) -> Reply<'static> {
    Reply::Pong { beat, work: vec![0; LANES.into()] }
}

#[tokio::test(start_paused = true)]
async fn replies_on_a_lane_that_nobody_has_and_answers_to_no_question_end_the_conversation() {
    for (lane, reply) in [(Lane::TAGS, Reply::Done), (Lane::CONTROL, pong(9)), (Lane(7), Reply::Lines("a\n"))] {
        let (conversation, mut far) = begun(1 << 20).await;
        let mut guard = conversation.lane(Lane::BULK).await;
        far.say(lane, &reply).await;
        let why = error(&mut guard).await;
        assert!(matches!(&why, TargetError::Refused(text) if text.contains("nothing asked for")), "{reply:?}: {why}");
    }
    // One answer too many would be taken for that to the next request.
    let (conversation, mut far) = begun(1 << 20).await;
    let mut guard = conversation.lane(Lane::CONTROL).await;
    guard.say(&Request::Publish).await.expect("credit");
    far.say(Lane::CONTROL, &Reply::Done).await;
    far.say(Lane::CONTROL, &Reply::Done).await;
    guard.answer(Bounds::NONE, |_| Ok(())).await.expect("an answer");
    tokio::time::sleep(Duration::from_millis(1)).await;
    guard.settled();
    assert!(conversation.is_over());
}

#[tokio::test(start_paused = true)]
async fn an_answer_longer_than_its_question_allows_is_cut_off() {
    let (conversation, mut far) = begun(1 << 20).await;
    let mut guard = conversation.lane(Lane::CONTROL).await;
    guard.say(&Request::Verify { packages: vec![id("p@1")] }).await.expect("credit");
    let mut count = 0;
    let each = |_: &str| {
        count += 1;
        Ok(())
    };
    let answer = tokio::select! {
        answer = guard.answer(Bounds::packages(1), each) => answer,
        () = far.flood(Lane::CONTROL, &Reply::Lines("good p 1 ab\n")) => unreachable!("the conversation goes on"),
    };
    assert!(matches!(&answer, Err(TargetError::Refused(text)) if text.contains("longer than any")), "{answer:?}");
    assert_eq!(count, 21);
}
