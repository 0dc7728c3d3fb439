package topicconfig

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/record"
)

func TestDefaultsAreValid(t *testing.T) {
	all := map[string]string{}
	for _, d := range Definitions() {
		if err := Check(d.Name, d.Default); err != nil {
			t.Errorf("default of %s is refused: %v", d.Name, err)
		}
		if d.Doc == "" || typeNames[d.Type] == "" {
			t.Errorf("%s lacks documentation or a type", d.Name)
		}
		all[d.Name] = d.Default
	}
	set, err := Parse(all, nil)
	if err != nil {
		t.Fatal(err)
	}
	none, err := Parse(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if set != none {
		t.Errorf("defaults set by hand give %+v, none set gives %+v", set, none)
	}
	if none.Partition.SegmentBytes != 1<<30 || none.Retention != 168*time.Hour || none.LocalRetention != none.Retention ||
		none.LocalRetentionBytes != -1 || none.Partition.Recompress || !none.Partition.DeleteOnRetention ||
		none.Partition.MaxMessageBytes != 1048588 || none.Partition.TimestampBeforeMax != math.MaxInt64 {
		t.Errorf("defaults are %+v", none)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct {
		set  map[string]string
		want string // part of the message, which starts with the key
	}{
		{map[string]string{"retention.mss": "1"}, "retention.mss: unknown topic config name; did you mean retention.ms?"},
		{map[string]string{"segment_bytes": "1"}, "did you mean segment.bytes?"},
		{map[string]string{"frobnicate": "1"}, "frobnicate: unknown topic config name"},
		{map[string]string{"retention.ms": "soon"}, `retention.ms: "soon" is not a number of type long`},
		{map[string]string{"retention.ms": "-2"}, "too small"},
		{map[string]string{"segment.bytes": "1048575"}, "the least is 1048576"},
		{map[string]string{"segment.bytes": "2147483648"}, "not a number of type int"},
		{map[string]string{"cleanup.policy": "shred"}, "not one of"},
		{map[string]string{"cleanup.policy": "delete,"}, "not one of"},
		{map[string]string{"cleanup.policy": "Compact"}, "not one of"},
		{map[string]string{"remote.storage.enable": "true", "cleanup.policy": "delete,compact"}, "remote.storage.enable: compacted topics cannot be tiered"},
		{map[string]string{"remote.storage.enable": "true", "remote.log.copy.disable": "true", "retention.ms": "7", "local.retention.ms": "5"}, "local.retention.ms: must be the same as retention.ms"},
		{map[string]string{"min.compaction.lag.ms": "10", "max.compaction.lag.ms": "5"}, "min.compaction.lag.ms: must not be more than max.compaction.lag.ms"},
		{map[string]string{"leader.replication.throttled.replicas": "*,0:1"}, "not partition:broker"},
		{map[string]string{"leader.replication.throttled.replicas": "-1:1"}, "not partition:broker"},
		{map[string]string{"leader.replication.throttled.replicas": "1:1x"}, "not partition:broker"},
		{map[string]string{"segment.index.bytes": "3"}, "too small"},
		{map[string]string{"preallocate": "perhaps"}, "neither true nor false"},
		{map[string]string{"compression.type": "brotli"}, "not one of"},
		{map[string]string{"compression.gzip.level": "0"}, "too small"},
		{map[string]string{"compression.lz4.level": "18"}, "too large"},
		{map[string]string{"min.insync.replicas": "0"}, "too small"},
		{map[string]string{"min.cleanable.dirty.ratio": "2"}, "between 0 and 1"},
		{map[string]string{"remote.storage.enable": "true", "retention.ms": "1000", "local.retention.ms": "1001"}, "local.retention.ms: must not be more than retention.ms"},
		{map[string]string{"remote.storage.enable": "true", "local.retention.ms": "-1"}, "must not be -1"},
		{map[string]string{"remote.storage.enable": "true", "retention.bytes": "10", "local.retention.bytes": "11"}, "local.retention.bytes: must not be more"},
		{map[string]string{"leader.replication.throttled.replicas": "x"}, "not partition:broker"},
	} {
		_, err := Parse(c.set, nil)
		var ce *Error
		if !errors.As(err, &ce) || !errors.Is(err, kerr.InvalidConfig) {
			t.Errorf("%v: got %v, want an *Error of INVALID_CONFIG", c.set, err)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %q, want it to contain %q", c.set, err, c.want)
		}
	}
}

func TestParseTakes(t *testing.T) {
	got, err := Parse(map[string]string{
		"remote.storage.enable": "TRUE", "retention.ms": "-1", "local.retention.ms": "5000", "retention.bytes": "100",
		"compression.type": "gzip", "compression.gzip.level": "7", "cleanup.policy": "", "flush.messages": "1",
		"message.timestamp.type": "LogAppendTime", "unclean.leader.election.enable": "False", "segment.jitter.ms": "00",
		"internal.segment.bytes": "4096", "flush.ms": "5", "preallocate": "True", "segment.index.bytes": "80", "file.delete.delay.ms": "6",
		"min.compaction.lag.ms": "2", "min.cleanable.dirty.ratio": "0.25", "delete.retention.ms": "3", "max.compaction.lag.ms": "8", "message.timestamp.before.max.ms": " 7 ",
	}, map[string]string{"segment.ms": "9", "retention.ms": "77"})
	if err != nil {
		t.Fatal(err)
	}
	p := got.Partition
	if !got.Tiered || got.Retention >= 0 || got.LocalRetention != 5*time.Second || got.LocalRetentionBytes != 100 ||
		p.Codec != record.Gzip || p.CodecLevel != 7 || !p.Recompress || p.DeleteOnRetention || p.FlushMessages != 1 ||
		!p.LogAppendTime || p.SegmentBytes != 4096 || p.TimestampBeforeMax != 7*time.Millisecond || p.SegmentAge != 9*time.Millisecond ||
		p.FlushAfter != 5*time.Millisecond || !p.Preallocate || p.IndexBytes != 80 || p.FileDeleteDelay != 6*time.Millisecond ||
		p.MinCompactionLag != 2*time.Millisecond || p.MaxCompactionLag != 8*time.Millisecond || p.MinCleanableRatio != 0.25 || p.DeleteRetention != 3*time.Millisecond {
		t.Errorf("got %+v", got)
	}
	for policy, want := range map[string][2]bool{"compact": {true, false}, "delete,compact": {true, true}, " compact , delete ": {true, true}, "delete,delete": {false, true}, "": {}} {
		got, err := Parse(map[string]string{"cleanup.policy": policy}, nil)
		if err != nil || got.Partition.Compact != want[0] || got.Partition.DeleteOnRetention != want[1] {
			t.Errorf("cleanup.policy=%q gives %+v, %v", policy, got.Partition, err)
		}
	}
	if got, _ := Parse(map[string]string{"compression.type": "uncompressed"}, nil); !got.Partition.Recompress || got.Partition.Codec != record.None {
		t.Errorf("uncompressed gives %+v", got.Partition)
	}
}

func TestTieringCannotBeTurnedOff(t *testing.T) {
	on := map[string]string{"remote.storage.enable": "true"}
	if err := CheckChange(on, map[string]string{}); !errors.Is(err, kerr.InvalidConfig) {
		t.Errorf("turning tiering off gives %v", err)
	}
	if err := CheckChange(on, map[string]string{"remote.log.delete.on.disable": "true"}); err != nil {
		t.Error(err)
	}
	if err := CheckChange(map[string]string{}, on); err != nil {
		t.Error(err)
	}
	if err := CheckChange(on, on); err != nil {
		t.Error(err)
	}
}

// Whatever is set, Parse either refuses it by name or gives something sane.
func TestParseAnything(t *testing.T) {
	names := []string{"nonsense"}
	for _, d := range table {
		names = append(names, d.Name)
	}
	value := rapid.OneOf(rapid.SampledFrom([]string{"", "true", "-1", "-2", "0", "1", "1048576", forever, "delete", "zstd"}), rapid.String())
	rapid.Check(t, func(t *rapid.T) {
		set := rapid.MapOfN(rapid.SampledFrom(names), value, 0, 5).Draw(t, "set")
		got, err := Parse(set, nil)
		if err != nil {
			var ce *Error
			if !errors.As(err, &ce) {
				t.Fatalf("error %v is no *Error", err)
			}
			return
		}
		if got.LocalRetentionBytes == -2 || got.MinInSyncReplicas < 1 || got.Partition.SegmentBytes < 64 {
			t.Fatalf("got %+v from %v", got, set)
		}
	})
}

// A name with one letter wrong always finds its way back.
func TestUnknownName(t *testing.T) {
	for _, d := range Definitions() {
		for i := range d.Name {
			typo := d.Name[:i] + d.Name[i+1:]
			if err := Check(typo, ""); !strings.Contains(err.Error(), "; did you mean ") {
				t.Errorf("nothing is near %q: %v", typo, err)
			}
		}
	}
}

func TestCanonical(t *testing.T) {
	for _, c := range [][3]string{
		{"remote.storage.enable", " TRUE", "true"},
		{"retention.ms", "007 ", "7"},
		{"cleanup.policy", " delete , compact,delete", "delete,compact"},
		{"leader.replication.throttled.replicas", " 0:1 , ,0:1", "0:1,,0:1"},
		{"min.cleanable.dirty.ratio", "0.50", "0.5"},
		{"compression.type", "zstd ", "zstd"},
		{"unknown", " X ", " X "},
	} {
		if got := Canonical(c[0], c[1]); got != c[2] {
			t.Errorf("%s=%q is shown as %q, want %q", c[0], c[1], got, c[2])
		}
	}
	for _, d := range Definitions() {
		if got := Canonical(d.Name, d.Default); got != d.Default {
			t.Errorf("default of %s, %q, is shown as %q", d.Name, d.Default, got)
		}
	}
}
