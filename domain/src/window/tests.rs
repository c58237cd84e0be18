//! Windows on roads in simulated time.

use super::*;

const MEGABYTE: f64 = 1e6;
const FRAME: u64 = 64 << 10;

/// A road with one queue at its beginning, which anybody fills as far as the window lets him.
struct Road {
    window: Window,
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
        let (window, now, free) = (Window::default(), Duration::ZERO, Duration::ZERO);
        Self { window, now, rate, round_trip, free, answers: VecDeque::new() }
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
        self.window.answer(self.now);
        (frames, waited)
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
    let mut window = Window::default();
    for (number, late) in [1, 1, 40, 2, 90, 1].into_iter().cycle().take(1_000).enumerate() {
        let now = Duration::from_millis(100 * number as u64);
        assert!(window.is_open());
        if window.write(FRAME) {
            window.ask(now);
            assert!(window.answer(now + Duration::from_millis(late)));
        }
    }
    assert_eq!(window.bytes, FIRST);
}

#[test]
fn answers_that_nobody_asked_for_change_nothing() {
    let mut window = Window::default();
    assert!((0..100).all(|second| !window.answer(Duration::from_secs(second))));
    assert!(window.is_open());
    assert_eq!(window.bytes(), FIRST);
}
