package tty

import "time"

// pollEvery is how often the console is asked for its size; Windows tells of
// changes only to those who read its input records.
const pollEvery = 250 * time.Millisecond

// Resized calls f whenever the terminal's size changes, until stop is called.
func (t Terminal) Resized(f func()) (stop func()) {
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(pollEvery)
		defer tick.Stop()
		rows, cols, _ := t.Size()
		for {
			select {
			case <-tick.C:
				if r, c, ok := t.Size(); ok && (r != rows || c != cols) {
					rows, cols = r, c
					f()
				}
			case <-done:
				return
			}
		}
	}()
	return func() { close(done) }
}
