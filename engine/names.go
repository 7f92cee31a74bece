package engine

import (
	"math/rand/v2"
	"strconv"
)

// Words for names of containers that nobody named: how a thing is, and a thing
// that has to do with water, ships and what is built under it.
var (
	adjectives = []string{
		"able", "airy", "amber", "ample", "arctic", "azure", "balmy", "bold", "brave", "breezy", "bright", "brisk",
		"calm", "candid", "careful", "cheery", "clear", "clever", "coastal", "copper", "coral", "cosy", "crisp", "curious",
		"daring", "deep", "deft", "eager", "early", "easy", "eastern", "elegant", "fair", "fearless", "fleet", "fluent",
		"fond", "fresh", "gentle", "glad", "golden", "grand", "happy", "hardy", "hidden", "honest", "humble", "ideal",
		"jolly", "keen", "kind", "late", "level", "light", "lively", "loyal", "lucid", "lucky", "mellow", "merry",
		"mild", "misty", "modest", "neat", "nimble", "noble", "northern", "open", "patient", "placid", "polite", "proud",
		"quick", "quiet", "rapid", "ready", "regal", "rosy", "round", "salty", "serene", "sharp", "shiny", "silent",
		"silver", "simple", "smooth", "snug", "solid", "southern", "spry", "steady", "still", "stout", "sunny", "swift",
		"tidal", "tidy", "upbeat", "vivid", "warm", "western", "wise", "witty", "young", "zesty",
	}
	nouns = []string{
		"anchor", "anemone", "barge", "basin", "bay", "beacon", "bell", "boom", "bow", "breaker", "bridge", "brig",
		"brook", "buoy", "canal", "cape", "capstan", "channel", "clam", "cleat", "cliff", "clipper", "coast", "cove",
		"crab", "current", "cutter", "deck", "delta", "dinghy", "diver", "dock", "dolphin", "drydock", "dune", "eddy",
		"eel", "estuary", "ferry", "fjord", "fleet", "float", "galley", "gull", "gulf", "halyard", "harbor", "heron",
		"hull", "inlet", "island", "jetty", "kayak", "keel", "kelp", "ketch", "lagoon", "lantern", "lighthouse", "limpet",
		"lock", "marina", "mast", "mooring", "narwhal", "oar", "ocean", "otter", "oyster", "paddle", "pearl", "pelican",
		"petrel", "pier", "pilot", "plover", "pontoon", "port", "puffin", "quay", "raft", "reef", "rigging", "rudder",
		"sail", "schooner", "seal", "shoal", "shore", "skiff", "sloop", "sound", "spar", "squid", "strait", "surf",
		"tern", "tide", "tiller", "trawler", "tug", "turbine", "wave", "wharf", "whale", "yawl",
	}
)

// randomName is a name for a container; from the second try on it ends in a
// number, since the first was taken.
func randomName(try int) string {
	n := adjectives[rand.IntN(len(adjectives))] + "_" + nouns[rand.IntN(len(nouns))]
	if try > 0 {
		n += strconv.Itoa(rand.IntN(100))
	}
	return n
}
