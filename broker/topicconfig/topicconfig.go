// Package topicconfig is the one table of topic configs: name, type, default,
// valid values, meaning, the broker setting of the same meaning, and what this
// broker does otherwise than Kafka. Parse turns what was set by hand into what a
// partition works with. How configs are stored (metastore) or shown (api) does
// not belong here.
package topicconfig

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/nearest"
	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/record"
)

// Type is a config's type, with the numbers that DescribeConfigs v3+ answers
// (KIP-569).
type Type int8

// The types that topic and broker configs have.
const (
	Boolean Type = 1
	String  Type = 2
	Int     Type = 3 // 32 bits
	Short   Type = 4 // 16 bits
	Long    Type = 5 // 64 bits
	Double  Type = 6
	List    Type = 7 // comma-separated
)

var typeNames = map[Type]string{Boolean: "boolean", String: "string", Int: "int", Short: "short", Long: "long", Double: "double", List: "list"}

// String gives the type's name in lower case.
func (t Type) String() string { return typeNames[t] }

// Definition is one row of the table.
type Definition struct {
	Name    string
	Type    Type
	Default string
	Valid   string // what values are taken, for people; "" where the type says it all
	Doc     string
	Synonym string // the broker setting whose value is this config's default; "" for none
	Firn    string // what this broker makes of it, where that is not all that Kafka does
	// Internal configs can be set but are not listed (Kafka's
	// internal.segment.bytes, made for tests).
	Internal bool

	check    func(v string) error // nil: the type is all there is to check
	distinct bool                 // of a list: an item that is there twice counts, and is shown, once
}

// Error says which config is refused, and why. It wraps kerr.InvalidConfig.
type Error struct {
	Key    string
	Reason string
}

func (e *Error) Error() string { return e.Key + ": " + e.Reason }

// Unwrap gives the code to answer with.
func (e *Error) Unwrap() error { return kerr.InvalidConfig }

// Topic is what a topic's configs amount to, defaults filled in.
type Topic struct {
	Partition partition.Config // for partition.Open and SetConfig
	Tiered    bool             // remote.storage.enable

	RetentionBytes      int64         // retention.bytes, -1 unlimited
	Retention           time.Duration // retention.ms, <0 unlimited
	LocalRetentionBytes int64         // local.retention.bytes, -2 resolved to RetentionBytes
	LocalRetention      time.Duration // local.retention.ms, -2 resolved to Retention
	MinInSyncReplicas   int           // min.insync.replicas, ≥ 1
	UncleanElection     bool          // unclean.leader.election.enable
	RemoteDelete        bool          // remote.log.delete.on.disable
}

var byName = func() map[string]*Definition {
	m := make(map[string]*Definition, len(table))
	for i := range table {
		m[table[i].Name] = &table[i]
	}
	return m
}()

// Definitions lists every config that is not internal, sorted by name.
func Definitions() []Definition {
	out := make([]Definition, 0, len(table))
	for _, d := range table {
		if !d.Internal {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b Definition) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Lookup finds a config by name, internal ones too.
func Lookup(name string) (Definition, bool) {
	d, ok := byName[name]
	if !ok {
		return Definition{}, false
	}
	return *d, true
}

// Check says whether one value may be set: the name is known and the value is
// of its type and range. The error is an *Error.
func Check(name, value string) error {
	d, ok := byName[name]
	if !ok {
		return unknown(name)
	}
	v := strings.TrimSpace(value)
	if err := d.Type.Check(v); err != nil {
		return &Error{name, err.Error()}
	}
	if d.check != nil {
		if err := d.check(v); err != nil {
			return &Error{name, err.Error()}
		}
	}
	return nil
}

func unknown(name string) error {
	reason := "unknown topic config name"
	var names []string
	for _, d := range Definitions() {
		names = append(names, d.Name)
	}
	if near := nearest.Word(name, names); near != "" {
		reason += fmt.Sprintf("; did you mean %s?", near)
	}
	return &Error{name, reason}
}

// Parse checks what was set on a topic and fills in the rest: from defaults,
// the broker's own values by the names of topic configs (retention.ms where
// log.retention.hours was set), and from the table where neither has one; nil
// is no broker's value. Values of defaults have passed Check. The error is an
// *Error that names the first offending key in order of names: unknown (with
// the nearest known name), malformed, out of range, or in conflict with
// another.
func Parse(set, defaults map[string]string) (Topic, error) {
	for _, k := range slices.Sorted(maps.Keys(set)) {
		if err := Check(k, set[k]); err != nil {
			return Topic{}, err
		}
	}
	v := values{set, defaults}
	t := Topic{
		Tiered:              v.bool("remote.storage.enable"),
		RetentionBytes:      max(-1, v.long("retention.bytes")), // Kafka takes any negative number for "no limit"
		Retention:           v.ms("retention.ms"),
		LocalRetentionBytes: v.long("local.retention.bytes"),
		LocalRetention:      v.ms("local.retention.ms"),
		MinInSyncReplicas:   int(v.long("min.insync.replicas")),
		UncleanElection:     v.bool("unclean.leader.election.enable"),
		RemoteDelete:        v.bool("remote.log.delete.on.disable"),
	}
	if least, most := v.long("min.compaction.lag.ms"), v.long("max.compaction.lag.ms"); least > most {
		return Topic{}, &Error{"min.compaction.lag.ms", fmt.Sprintf("must not be more than max.compaction.lag.ms, which is %d; it is %d", most, least)}
	}
	if t.Tiered {
		if err := checkTiered(v); err != nil {
			return Topic{}, err
		}
	}
	if v.long("local.retention.bytes") == -2 {
		t.LocalRetentionBytes = t.RetentionBytes
	}
	if v.long("local.retention.ms") == -2 {
		t.LocalRetention = t.Retention
	}
	t.Partition = v.partition(&t)
	return t, nil
}

// CheckChange says whether a topic's configs may go from old to next, where
// each by itself is valid. Kafka (KIP-950) refuses to turn tiering off unless
// the remote data is to be deleted with it.
func CheckChange(old, next map[string]string) error {
	before, after := values{set: old}, values{set: next}
	if before.bool("remote.storage.enable") && !after.bool("remote.storage.enable") && !after.bool("remote.log.delete.on.disable") {
		return &Error{"remote.storage.enable", "cannot be turned off while what is in object storage is kept: set remote.log.delete.on.disable=true in the same request to delete it, or remote.log.copy.disable=true instead to keep it readable and copy nothing more"}
	}
	return nil
}

func (v values) partition(t *Topic) partition.Config {
	c := partition.Config{
		MaxMessageBytes:      max(1, int(v.long("max.message.bytes"))), // 0 is "nothing", not "no limit"
		LogAppendTime:        v.str("message.timestamp.type") == "LogAppendTime",
		TimestampBeforeMax:   v.ms("message.timestamp.before.max.ms"),
		TimestampAfterMax:    v.ms("message.timestamp.after.max.ms"),
		SegmentBytes:         v.long("segment.bytes"),
		SegmentAge:           v.ms("segment.ms"),
		SegmentJitter:        v.ms("segment.jitter.ms"),
		IndexIntervalBytes:   int(v.long("index.interval.bytes")),
		IndexBytes:           int(v.long("segment.index.bytes")),
		Preallocate:          v.bool("preallocate"),
		FileDeleteDelay:      v.ms("file.delete.delay.ms"),
		FlushAfter:           max(1, v.ms("flush.ms")), // 0 is "at once", not "never"
		RetentionBytes:       t.RetentionBytes,
		Retention:            t.Retention,
		Tiered:               t.Tiered,
		LocalRetentionBytes:  t.LocalRetentionBytes,
		LocalRetention:       t.LocalRetention,
		RemoteCopyDisabled:   v.bool("remote.log.copy.disable"),
		ProducerIDExpiration: 24 * time.Hour, // producer.id.expiration.ms of the broker
		DeleteOnRetention:    slices.Contains(v.list("cleanup.policy"), "delete"),
		Compact:              slices.Contains(v.list("cleanup.policy"), "compact"),
		DeleteRetention:      v.ms("delete.retention.ms"),
		MinCompactionLag:     v.ms("min.compaction.lag.ms"),
		MaxCompactionLag:     v.ms("max.compaction.lag.ms"),
		MinCleanableRatio:    v.double("min.cleanable.dirty.ratio"),
	}
	if n := v.str("internal.segment.bytes"); n != "" {
		c.SegmentBytes = v.long("internal.segment.bytes")
	}
	c.Fsync = v.str("firn.ack.policy") == "fsync"
	if n := v.long("flush.messages"); n != math.MaxInt64 {
		c.FlushMessages = n
	}
	codecs := map[string]record.Codec{"uncompressed": record.None, "gzip": record.Gzip, "snappy": record.Snappy, "lz4": record.LZ4, "zstd": record.Zstd}
	if c.Codec, c.Recompress = codecs[v.str("compression.type")]; c.Recompress {
		switch c.Codec {
		case record.Gzip:
			c.CodecLevel = max(0, int(v.long("compression.gzip.level"))) // -1 is Kafka's "default"
		case record.LZ4:
			c.CodecLevel = int(v.long("compression.lz4.level"))
		case record.Zstd:
			c.CodecLevel = int(v.long("compression.zstd.level"))
		}
	}
	return c
}

// checkTiered holds what must be true between the configs of a tiered topic.
func checkTiered(v values) error {
	if slices.Contains(v.list("cleanup.policy"), "compact") {
		return &Error{"remote.storage.enable", "compacted topics cannot be tiered: set cleanup.policy=delete"}
	}
	for _, unit := range []string{"bytes", "ms"} {
		total, local := v.long("retention."+unit), v.long("local.retention."+unit)
		if v.bool("remote.log.copy.disable") && local != -2 && local != total {
			return &Error{"local.retention." + unit, fmt.Sprintf("must be the same as retention.%s, which is %d, or -2, while remote.log.copy.disable=true leaves new records on local disk only; it is %d", unit, total, local)}
		}
		if total <= -1 || local == -2 {
			continue
		}
		if local == -1 {
			return &Error{"local.retention." + unit, fmt.Sprintf("must not be -1 (unlimited) while retention.%s is %d", unit, total)}
		}
		if local > total {
			return &Error{"local.retention." + unit, fmt.Sprintf("must not be more than retention.%s, which is %d; it is %d", unit, total, local)}
		}
	}
	return nil
}

// Canonical spells a value that passed Check as it is shown: without
// surrounding spaces, booleans in lower case, numbers in plain digits, and items
// once that count once. Unknown names keep their value.
func Canonical(name, value string) string {
	d, ok := byName[name]
	if !ok {
		return value
	}
	value = d.Type.Canonical(value)
	if d.distinct {
		var items []string
		for item := range strings.SplitSeq(value, ",") {
			if !slices.Contains(items, item) {
				items = append(items, item)
			}
		}
		value = strings.Join(items, ",")
	}
	return value
}
