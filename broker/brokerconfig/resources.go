package brokerconfig

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/topicconfig"
)

// The configs of client-metrics subscriptions (KIP-714).
const (
	intervalMs = "interval.ms"
	metricsOf  = "metrics"
	matchOf    = "match"
)

// clientMetrics is the table of what a client-metrics subscription has.
var clientMetrics = []Definition{
	{Name: intervalMs, Type: integer, Default: "300000", Valid: "100 to 3600000", check: between(100, 3600_000),
		Doc: "The time (milliseconds) between two pushes of a client."},
	{Name: matchOf, Type: list, Default: "", Valid: "KEY=REGULAR EXPRESSION of the keys " + strings.Join(matchKeys, ", "), check: checkMatch,
		Doc: "Which clients push: those of which all named values match whole. Empty means every client."},
	{Name: metricsOf, Type: list, Default: "", Valid: "prefixes of names, or *", check: checkItems,
		Doc: "Which metrics are pushed: those whose name begins with one of these. * means all, empty none."},
}

// matchKeys are what a subscription can tell clients apart by.
var matchKeys = []string{"client_id", "client_instance_id", "client_software_name", "client_software_version", "client_source_address", "client_source_port"}

// ClientMetrics lists the configs of a client-metrics subscription, sorted by
// name.
func ClientMetrics() []Definition { return slices.Clone(clientMetrics) }

// CheckClientMetrics says whether one value may be set on a client-metrics
// subscription. Unlike elsewhere, an unknown name and an interval out of range
// are kerr.InvalidRequest, as in Kafka.
func CheckClientMetrics(name, value string) error {
	for i := range clientMetrics {
		d := &clientMetrics[i]
		if d.Name != name {
			continue
		}
		err := d.valid(value)
		if err != nil && name == intervalMs && d.Type.Check(strings.TrimSpace(value)) == nil {
			err.(*Error).code = kerr.InvalidRequest
		}
		return err
	}
	return &Error{Name: name, Reason: "a client-metrics subscription has interval.ms, metrics and match only", code: kerr.InvalidRequest}
}

// checkItems refuses lists with an item that is empty.
func checkItems(v string) error {
	if v == "" {
		return nil
	}
	for item := range strings.SplitSeq(v, ",") {
		if strings.TrimSpace(item) == "" {
			return fmt.Errorf("%q has an empty item", v)
		}
	}
	return nil
}

// checkMatch says whether v is a list of KEY=REGULAR EXPRESSION.
func checkMatch(v string) error {
	for _, item := range topicconfig.SplitList(v) {
		key, pattern, ok := strings.Cut(item, "=")
		if !ok || strings.TrimSpace(pattern) == "" || !slices.Contains(matchKeys, strings.TrimSpace(key)) {
			return fmt.Errorf("%q is not KEY=REGULAR EXPRESSION of a key among %s", item, strings.Join(matchKeys, ", "))
		}
		if _, err := regexp.Compile(strings.TrimSpace(pattern)); err != nil {
			return fmt.Errorf("%q: not a regular expression (RE2): %v", item, err)
		}
	}
	return nil
}

// groupRow makes a row of the table of groups; broker is the broker config
// that Kafka takes the default from.
func groupRow(name, broker string, t topicconfig.Type, def, doc string, least, most int64) Definition {
	d := Definition{Name: name, Type: t, Default: def, Doc: doc, Broker: broker}
	if t == integer {
		d.Valid, d.check = fmt.Sprintf("%d to %d", least, most), between(least, most)
	}
	return d
}

// groups is the table of what a group has, with Kafka's defaults and limits.
// They speak of consumer groups of the newer protocol (KIP-848), share groups
// and streams groups; classic groups, the only ones so far, have none.
var groups = func() []Definition {
	out := []Definition{
		groupRow("share.record.lock.duration.ms", "group.share.record.lock.duration.ms", integer, "30000", "How long (milliseconds) a record is locked for the member that fetched it.", 15000, 60000),
		groupRow("share.delivery.count.limit", "group.share.delivery.count.limit", integer, "5", "How often a record is delivered at most.", 2, 10),
		groupRow("share.partition.max.record.locks", "group.share.partition.max.record.locks", integer, "2000", "Records of one partition that may be locked at one time.", 100, 4000),
		groupRow("streams.num.standby.replicas", "group.streams.num.standby.replicas", integer, "0", "Standby copies of each task.", 0, 2),
		groupRow("streams.initial.rebalance.delay.ms", "group.streams.initial.rebalance.delay.ms", integer, "3000", "How long (milliseconds) a new, empty group waits for more members.", 0, 1<<31-1),
	}
	for _, kind := range []string{"consumer", "share", "streams"} {
		broker := "group." + kind + "."
		out = append(out,
			groupRow(kind+".session.timeout.ms", broker+"session.timeout.ms", integer, "45000", "After how long (milliseconds) without a heartbeat a member is put out.", 45000, 60000),
			groupRow(kind+".heartbeat.interval.ms", broker+"heartbeat.interval.ms", integer, "5000", "The time (milliseconds) between two heartbeats of a member.", 5000, 15000),
			groupRow(kind+".assignment.interval.ms", broker+"assignment.interval.ms", integer, "1000", "The least time (milliseconds) between two assignments.", 0, 15000))
	}
	reset := groupRow("share.auto.offset.reset", "share.auto.offset.reset", text, "latest", "Where a share group begins in a partition that it does not know.", 0, 0)
	reset.Valid, reset.check = "earliest, latest, or by_duration: and an ISO 8601 duration", checkReset
	level := groupRow("share.isolation.level", "share.isolation.level", text, "read_uncommitted", "Whether a share group sees records of transactions that are not committed.", 0, 0)
	level.Valid, level.check = "read_committed, read_uncommitted", oneOf("read_committed", "read_uncommitted")
	out = append(out, reset, level, groupRow("share.renew.acknowledge.enable", "share.renew.acknowledge.enable", boolean, "true", "Whether a member may renew the lock of a record.", 0, 0))
	for i := range out {
		out[i].Doc += " Kept and shown; without effect until such groups are answered."
	}
	slices.SortFunc(out, func(a, b Definition) int { return strings.Compare(a.Name, b.Name) })
	return out
}()

// GroupConfigs lists the configs of a group, sorted by name.
func GroupConfigs() []Definition { return slices.Clone(groups) }

// CheckGroup says whether one value may be set on a group.
func CheckGroup(name, value string) error {
	for i := range groups {
		if groups[i].Name == name {
			return groups[i].valid(value)
		}
	}
	return &Error{Name: name, Reason: "no such group config"}
}

var isoDuration = regexp.MustCompile(`^[+-]?P(\d+D)?(T(\d+H)?(\d+M)?(\d+(\.\d{1,9})?S)?)?$`)

func checkReset(v string) error {
	if d, ok := strings.CutPrefix(v, "by_duration:"); ok {
		if !isoDuration.MatchString(d) || strings.HasPrefix(d, "-") || strings.HasSuffix(d, "P") || strings.HasSuffix(d, "T") {
			return fmt.Errorf("%q is not an ISO 8601 duration such as P1DT12H", d)
		}
		return nil
	}
	return oneOf("earliest", "latest")(v)
}
