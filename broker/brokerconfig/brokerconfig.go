// Package brokerconfig is the one table of broker configs: what Kafka's
// operators set under Kafka's names, and Firn's own limits under names that
// begin with "firn.". A value comes from one of four layers: set for one
// broker at run time, set for all brokers at run time, given at the start, or
// the table's default. Resolve turns the layers into Values, which packages
// obey and DescribeConfigs shows. The tables of the two small kinds of configs
// beside topics and brokers, client-metrics subscriptions and groups, are here
// too (resources.go). How layers are stored (metastore) or asked
// for (api) does not belong here.
package brokerconfig

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/nearest"
	"github.com/firnlog/firn/broker/topicconfig"
)

// Scope says when and for whom a config may be set, by the rules of Kafka's
// dynamic broker configs (KIP-226).
type Scope uint8

// The scopes. Kafka has a third, of configs that one broker may have and all
// together may not (its certificates); none of them exists here yet.
const (
	ReadOnly    Scope = iota // at the start only
	ClusterWide              // at run time, for all brokers or for one
)

func (s Scope) String() string {
	if s == ClusterWide {
		return "cluster-wide"
	}
	return "read-only"
}

// Definition is one row of the table.
type Definition struct {
	Name    string
	Type    topicconfig.Type
	Default string // "" of a row that is NoDefault
	// NoDefault rows are null until they are set.
	NoDefault bool
	Valid     string // what values are taken, for people; "" where the type says it all
	Doc       string
	Scope     Scope
	// Topic is the topic config whose default this is, "" for none.
	Topic string
	// Setting is the setting of `firn start` that gives the value of a row
	// that --set cannot, "" for none.
	Setting string
	// Broker is, in the table of groups, the broker config whose value Kafka
	// takes as the default.
	Broker string
	// Kafka is Kafka's default where this broker's is another, "" where not.
	Kafka string
	// Unlisted rows are Kafka's, too, but not shown before they are set.
	Unlisted bool

	check func(string) error     // nil: the type is all there is to check
	put   func(*Values, *string) // of the value, nil for null; nil: only shown, or a topic's default
}

// Error says which config is refused, and why. It wraps kerr.InvalidConfig
// where nothing else is said.
type Error struct {
	Name   string
	Reason string

	code *kerr.Error // nil: kerr.InvalidConfig
}

func (e *Error) Error() string { return e.Name + ": " + e.Reason }

// Unwrap gives the code to answer with.
func (e *Error) Unwrap() error {
	if e.code != nil {
		return e.code
	}
	return kerr.InvalidConfig
}

var byName = func() map[string]*Definition {
	m := make(map[string]*Definition, len(table))
	for i := range table {
		m[table[i].Name] = &table[i]
	}
	return m
}()

// Definitions lists every row, sorted by name.
func Definitions() []Definition {
	out := slices.Clone(table)
	slices.SortFunc(out, func(a, b Definition) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Lookup finds a row by name.
func Lookup(name string) (Definition, bool) {
	d, ok := byName[name]
	if !ok {
		return Definition{}, false
	}
	return *d, true
}

// kafkaNames are the broker configs that Kafka 4.3.1 lists for a broker,
// sorted, one a line.
//
//go:embed kafka_names.txt
var kafkaNames string

var isKafkaName = func() map[string]bool {
	m := map[string]bool{}
	for name := range strings.Lines(kafkaNames) {
		m[strings.TrimSpace(name)] = true
	}
	return m
}()

// InKafka says whether Kafka has a broker config of that name, be it one that
// this broker has or not.
func InKafka(name string) bool { return isKafkaName[name] }

// Unknown is the error for a name that is not in the table: one of Kafka's
// that this broker does not have, or one that nobody has.
func Unknown(name string) error {
	if InKafka(name) {
		return &Error{Name: name, Reason: "Kafka has this broker config, this broker does not; leave it out"}
	}
	if _, ok := topicconfig.Lookup(name); ok {
		return &Error{Name: name, Reason: "is a config of topics, not of brokers"}
	}
	reason := "no such broker config"
	if word := near(name); word != "" {
		reason += "; did you mean " + word + "?"
	}
	return &Error{Name: name, Reason: reason}
}

// CheckStatic says whether a value may be given at the start.
func CheckStatic(name, value string) error {
	d, ok := byName[name]
	if !ok {
		return Unknown(name)
	}
	if d.Setting != "" {
		return &Error{Name: name, Reason: fmt.Sprintf("follows from the setting %s (--%s); set that instead", d.Setting, d.Setting)}
	}
	return d.valid(value)
}

// CheckDynamic says whether a value may be set at run time.
func CheckDynamic(name, value string) error {
	d, ok := byName[name]
	if !ok {
		return Unknown(name)
	}
	if d.Scope == ReadOnly {
		return &Error{Name: name, Reason: "can be given at the start of the broker only (firn start --set, or its file)"}
	}
	return d.valid(value)
}

// valid checks one value by itself.
func (d *Definition) valid(value string) error {
	v := strings.TrimSpace(value)
	if err := d.Type.Check(v); err != nil {
		return &Error{Name: d.Name, Reason: err.Error()}
	}
	if d.check != nil {
		if err := d.check(v); err != nil {
			return &Error{Name: d.Name, Reason: err.Error()}
		}
	}
	return nil
}

// near gives the known name that is most like name, "" when none is. That some
// begin with "firn." need not be known.
func near(name string) string {
	var known []string
	for i := range table {
		known = append(known, table[i].Name)
		if short, ours := strings.CutPrefix(table[i].Name, "firn."); ours {
			known = append(known, short)
		}
	}
	word := nearest.Word(name, known)
	if word != "" && byName[word] == nil {
		return "firn." + word
	}
	return word
}
