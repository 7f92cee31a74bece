// Package bench measures the engine against whichever peers are installed, in
// one run on one machine, and prints ratios: `make bench`. Absolute times say
// little on a machine that others use, so everything that is compared is run
// alternately.
package bench
