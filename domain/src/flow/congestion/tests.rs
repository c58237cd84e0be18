//! Windows on roads in simulated time.

use super::*;
use crate::flow::throughput::Throughput;

const MEGABYTE: f64 = 1e6;
const FRAME: u64 = 64 << 10;

/// A road with one queue at its beginning, which anybody fills as far as the window lets him.
struct Road {
    window: CongestionWindow,
    throughput: Throughput,
    now: Duration,
    /// Bytes a second.
    rate: f64,
    round_trip: Duration,
    /// When the queue is empty.
    free: Duration,
    /// When answers come.
    answers: VecDeque<Duration>,
}

/// What came of some time on a road.
struct Seen {
    /// Of what the road can carry, how much it did.
    used: f64,
    /// How long a byte had to wait, on the average.
    waited: Duration,
}

impl Road {
    fn new(rate: f64, round_trip_ms: u64) -> Self {
        let round_trip = Duration::from_millis(round_trip_ms);
        let (now, free) = (Duration::ZERO, Duration::ZERO);
        let (window, throughput, answers) = (CongestionWindow::default(), Throughput::default(), VecDeque::new());
        Self { window, throughput, now, rate, round_trip, free, answers }
    }

    /// Sends for a while as much as it may.
    fn run(&mut self, seconds: u64) -> Seen {
        let (begin, end) = (self.now, self.now + Duration::from_secs(seconds));
        let (mut frames, mut waited) = (0, Duration::ZERO);
        while self.now < end {
            let (sent, for_long) = self.step();
            (frames, waited) = (frames + sent, waited + for_long);
        }
        let used = f64::from(frames) * FRAME as f64 / self.rate / (self.now - begin).as_secs_f64();
        Seen { used, waited: waited / frames }
    }

    /// Sends what it may until the next answer: how many frames, and how long they wait in the queue, all together.
    fn step(&mut self) -> (u32, Duration) {
        let (mut frames, mut waited) = (0, Duration::ZERO);
        while self.window.is_open() {
            self.free = self.free.max(self.now) + Duration::from_secs_f64(FRAME as f64 / self.rate);
            waited += self.free.saturating_sub(self.now);
            frames += 1;
            self.write(FRAME);
        }
        self.now = self.answers.pop_front().expect("a full window has questions under way");
        self.note_answer();
        (frames, waited)
    }

    /// An answer has come just now.
    fn note_answer(&mut self) {
        let sample = self.window.answer(self.now).expect("a question");
        sample.into_iter().for_each(|sample| self.throughput.note(sample));
    }

    fn write(&mut self, bytes: u64) {
        let should_ask = self.window.write(bytes);
        self.ask_if(should_ask);
    }

    fn write_urgent(&mut self, bytes: u64) {
        self.free = self.free.max(self.now) + Duration::from_secs_f64(bytes as f64 / self.rate);
        let should_ask = self.window.write_urgent(bytes);
        self.ask_if(should_ask);
    }

    fn ask_if(&mut self, should_ask: bool) {
        if should_ask {
            self.window.ask(self.now);
            let answer = self.free.max(self.now) + self.round_trip;
            self.answers.push_back(self.answers.back().map_or(answer, |last| answer.max(*last)));
        }
    }
}

/// After a second such a road is full for a minute, and hardly anything waits on it.
fn assert_full_without_queue(rate: f64, round_trip_ms: u64) {
    let mut road = Road::new(rate, round_trip_ms);
    road.run(1);
    let seen = road.run(60);
    assert!(seen.used > 0.98, "{}", seen.used);
    assert!(seen.waited < Duration::from_millis(9), "{:?}", seen.waited);
}

#[test]
fn a_fast_and_long_road_is_filled_within_a_second_and_stays_full() {
    assert_full_without_queue(250.0 * MEGABYTE, 50);
}

#[test]
fn on_a_slower_road_nothing_stands_in_the_queue_and_yet_it_is_full() {
    assert_full_without_queue(25.0 * MEGABYTE, 50);
}

#[test]
fn a_road_without_length_is_filled_by_little() {
    assert_full_without_queue(100.0 * MEGABYTE, 0);
}

#[test]
fn a_road_that_becomes_slower_or_longer_or_faster_is_filled_again() {
    let mut road = Road::new(25.0 * MEGABYTE, 50);
    road.run(10);
    for (rate, round_trip_ms) in [(5.0, 50), (50.0, 50), (50.0, 120), (25.0, 10)] {
        (road.rate, road.round_trip) = (rate * MEGABYTE, Duration::from_millis(round_trip_ms));
        road.run(11);
        let seen = road.run(30);
        assert!(seen.used > 0.95, "{rate} MB/s, {round_trip_ms} ms: {}", seen.used);
        let most = Duration::from_millis(12) + Duration::from_secs_f64(3.0 * FRAME as f64 / road.rate);
        assert!(seen.waited < most, "{rate} MB/s, {round_trip_ms} ms: {:?}", seen.waited);
    }
}

#[test]
fn what_is_urgent_takes_room_for_a_moment_and_narrows_nothing() {
    let mut road = Road::new(25.0 * MEGABYTE, 50);
    road.run(3);
    let before = road.window.bytes;
    for _ in 0..100 {
        road.write_urgent(500_000);
        let until = road.now + Duration::from_millis(300);
        while road.now < until {
            road.step();
        }
    }
    assert!(road.window.bytes > before * 9 / 10, "{} of {before}", road.window.bytes);
}

#[test]
fn the_window_is_never_below_its_floor_however_slow_the_road() {
    let mut road = Road::new(10_000.0, 500);
    road.run(600);
    assert!((LEAST..=FIRST).contains(&road.window.bytes()), "{}", road.window.bytes());
    assert!(road.window.written - road.window.arrived >= LEAST, "so much is on the way");
}

#[test]
fn what_does_not_fill_the_window_neither_widens_nor_narrows_it() {
    let mut window = CongestionWindow::default();
    for (number, late) in [1, 1, 40, 2, 90, 1].into_iter().cycle().take(1_000).enumerate() {
        let now = Duration::from_millis(100 * number as u64);
        assert!(window.is_open());
        if window.write(FRAME) {
            window.ask(now);
            assert!(window.answer(now + Duration::from_millis(late)).is_ok());
        }
    }
    assert_eq!(window.bytes, FIRST);
}

#[test]
fn answers_that_nobody_asked_for_change_nothing() {
    let mut window = CongestionWindow::default();
    assert!((0..100).all(|second| window.answer(Duration::from_secs(second)) == Err(Unasked)));
    assert!(window.is_open());
    assert_eq!(window.bytes(), FIRST);
}

impl Road {
    /// Waits for all that is under way, and so long in all, with nothing to send.
    fn rest(&mut self, seconds: f64) {
        let end = self.now + Duration::from_secs_f64(seconds);
        self.window.starve();
        while let Some(answer) = self.answers.front().copied().filter(|answer| *answer <= end) {
            self.answers.pop_front();
            self.now = answer;
            self.note_answer();
            self.window.starve();
        }
        self.now = end;
    }

    /// What is known of it, in megabytes a second: by the average, and by the best round.
    fn measured(&self) -> Option<[f64; 2]> {
        let [mean, best] = [false, true].map(|is_near| self.throughput.bytes_a_second(is_near));
        mean.zip(best).map(|(mean, best)| [mean as f64 / MEGABYTE, best as f64 / MEGABYTE])
    }
}

#[test]
fn a_full_road_shows_what_it_delivers() {
    for (rate, round_trip_ms) in [(0.5, 50), (2.0, 300), (12.5, 1), (25.0, 50), (30.0, 7), (110.0, 50), (100.0, 0)] {
        let mut road = Road::new(rate * MEGABYTE, round_trip_ms);
        road.run(20);
        let [mean, best] = road.measured().expect("it was full");
        assert!((0.95..1.02).contains(&(mean / rate)), "{mean} of {rate} MB/s, {round_trip_ms} ms");
        assert!((0.95..1.2).contains(&(best / rate)), "{best} of {rate} MB/s, {round_trip_ms} ms");
    }
}

#[test]
fn an_idle_far_road_never_looks_fast_however_much_it_takes_at_once() {
    for size in [1_000, 70_000, 130_000, 500_000, 1_200_000] {
        let mut road = Road::new(25.0 * MEGABYTE, 50);
        for _ in 0..1_000 {
            road.write_urgent(size);
            road.rest(0.3);
        }
        assert_eq!(road.measured(), None, "{size} bytes at a time");
        assert!(road.throughput.deltas_pay(false, None));
    }
}

#[test]
fn what_we_send_at_a_rate_of_our_own_says_nothing_of_the_road() {
    // 6.4 MB/s on a road that carries 125.
    for round_trip_ms in [0, 50] {
        let mut road = Road::new(125.0 * MEGABYTE, round_trip_ms);
        for _ in 0..10_000 {
            road.write(FRAME);
            road.rest(0.01);
        }
        assert_eq!(road.measured(), None, "{round_trip_ms} ms");
    }
}

#[test]
fn answers_that_are_late_on_an_idle_road_do_not_make_it_look_slow() {
    let mut road = Road::new(125.0 * MEGABYTE, 0);
    for late_ms in [0, 20, 1, 90].into_iter().cycle().take(4_000) {
        road.round_trip = Duration::from_millis(late_ms);
        road.write(FRAME);
        road.rest(0.1);
    }
    assert_eq!(road.measured(), None);
}

#[test]
fn what_holds_too_little_to_fill_the_road_says_nothing_of_it() {
    let mut road = Road::new(125.0 * MEGABYTE, 50);
    keep_under_way(&mut road, FIRST + 2 * FRAME);
    assert_eq!(road.measured(), None);
}

#[test]
fn what_is_urgent_and_more_than_the_road_holds_shows_what_it_delivers() {
    let mut road = Road::new(10.0 * MEGABYTE, 50);
    keep_under_way(&mut road, 4 << 20);
    let [mean, best] = road.measured().expect("it was full");
    assert!((9.5..10.2).contains(&mean) && best < 12.0, "{mean}, {best} MB/s");
}

/// Keeps so many urgent bytes on the road for 3 s, as credit does.
fn keep_under_way(road: &mut Road, bytes: u64) {
    let end = road.now + Duration::from_secs(3);
    while road.now < end {
        while road.window.on_the_way() < bytes {
            road.write_urgent(FRAME);
        }
        road.now = road.answers.pop_front().expect("a question under way");
        road.note_answer();
    }
}
