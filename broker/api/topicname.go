package api

import (
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/metastore"
)

// Names of topics that belong to the broker itself.
const (
	offsetsTopic      = "__consumer_offsets"
	transactionsTopic = "__transaction_state"
	shareTopic        = "__share_group_state"
	metadataTopic     = "__cluster_metadata"
)

// isInternal says whether clients are told that a topic of this name is the
// broker's own.
func isInternal(name string) bool {
	return name == offsetsTopic || name == transactionsTopic || name == shareTopic
}

// checkTopicName says whether a topic may have this name: 1 to 249 of the
// ASCII letters and digits, '.', '_' and '-', but not "." or "..".
func checkTopicName(name string) error {
	switch {
	case name == "":
		return fail(kerr.InvalidTopicException, "a topic name must not be empty")
	case name == "." || name == "..":
		return fail(kerr.InvalidTopicException, "a topic name must not be %q", name)
	case len(name) > 249:
		return fail(kerr.InvalidTopicException, "a topic name has at most 249 characters; this one has %d", len(name))
	}
	for i := range len(name) {
		b := name[i]
		if b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '.' || b == '_' || b == '-' {
			continue
		}
		return fail(kerr.InvalidTopicException, "topic name %q has a character other than ASCII letters and digits, '.', '_' and '-'", name)
	}
	return nil
}

// collision gives an existing topic whose name differs from name only in '.'
// against '_', "" for none. Kafka refuses such names since its metrics cannot
// tell them apart.
func collision(img *metastore.Image, name string) string {
	if !strings.ContainsAny(name, "._") {
		return ""
	}
	same := strings.ReplaceAll(name, ".", "_")
	for other := range img.Topics {
		if other != name && len(other) == len(name) && strings.ReplaceAll(other, ".", "_") == same {
			return other
		}
	}
	return ""
}

// eachOnce gives the first topic of each name, in their order, and which names
// come more than once.
func eachOnce[T any](topics []T, name func(*T) string) (first []*T, twice map[string]bool) {
	twice = map[string]bool{}
	for i := range topics {
		n := name(&topics[i])
		if _, again := twice[n]; again {
			twice[n] = true
			continue
		}
		twice[n] = false
		first = append(first, &topics[i])
	}
	return first, twice
}
