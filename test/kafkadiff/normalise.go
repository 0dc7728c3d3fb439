package kafkadiff

import (
	"encoding/json"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// normaliser makes answers comparable that two brokers must give differently.
// It lives as long as one run of a scenario: what gets a number keeps it.
// README.md lists the rules for those who write scenarios.
type normaliser struct {
	suffix     string // "-" and what makes this run's names unique
	suffixed   *regexp.Regexp
	host, port string    // of the broker
	clock      int64     // $now: milliseconds
	started    time.Time // of the run

	names map[string]string // kind and raw value: what it is called
	count map[string]int    // numbers given away by kind
	peek  bool              // give no numbers: for a first look
}

// clockBack is how far $now lies before the true time, so that the times of a
// scenario's records and those that a broker takes itself are told apart.
const clockBack = time.Hour

func newNormaliser(addr, suffix string, started time.Time) *normaliser {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	return &normaliser{
		suffix: "-" + suffix, suffixed: regexp.MustCompile(`([A-Za-z][A-Za-z0-9]*)-` + regexp.QuoteMeta(suffix)),
		host: host, port: port,
		clock: started.Add(-clockBack).UnixMilli(), started: started,
		names: map[string]string{}, count: map[string]int{},
	}
}

// numbered are the fields whose values brokers choose: what they are called.
var numbered = map[string]string{"ProducerID": "producer", "SessionID": "session"}

// bind makes later answers show the variable instead of a number.
func (n *normaliser) bind(name, field string, v any) {
	if x, ok := v.(id); ok && strings.Trim(string(x), "0") != "" {
		n.names["id "+string(x)] = "$" + name
	}
	if kind := numbered[field]; kind != "" {
		if x, ok := v.(json.Number); ok {
			n.names[kind+" "+x.String()] = "$" + name
		}
	}
}

func (n *normaliser) call(kind, raw string) string {
	if name, ok := n.names[kind+" "+raw]; ok {
		return name
	}
	if n.peek {
		return "<" + kind + ">"
	}
	n.count[kind]++
	name := fmt.Sprintf("<%s%d>", kind, n.count[kind])
	n.names[kind+" "+raw] = name
	return name
}

// tree normalises a copy of an answer whose lists are sorted.
func (n *normaliser) tree(v any) any { return n.value("", v) }

func (n *normaliser) value(field string, v any) any {
	switch v := v.(type) {
	case *object:
		o := &object{}
		for i, name := range v.names {
			o.set(name, n.value(name, v.values[i]))
		}
		return o
	case list:
		l := make(list, 0, len(v))
		for _, e := range v {
			if !ownConfig(field, e) {
				l = append(l, n.value(field, e))
			}
		}
		return l
	case id:
		if strings.Trim(string(v), "0") == "" {
			return "0"
		}
		return n.call("id", string(v))
	case string:
		return n.text(field, v)
	case json.Number:
		i, err := strconv.ParseInt(v.String(), 10, 64)
		if err != nil {
			return v
		}
		return n.integer(field, i)
	}
	return v
}

// ownConfig says whether an element of a list is a config that only Firn has:
// their names say so, and Kafka's answers cannot have them.
func ownConfig(field string, v any) bool {
	o, ok := v.(*object)
	if !ok || field != "Configs" {
		return false
	}
	name, _ := o.get("Name")
	s, _ := name.(string)
	return strings.HasPrefix(s, "firn.")
}

func (n *normaliser) integer(field string, i int64) any {
	switch {
	case strings.HasSuffix(field, "ErrorCode"):
		return errorName(i)
	case field == "Port" && strconv.FormatInt(i, 10) == n.port:
		return "<port>"
	case numbered[field] != "" && (i > 0 || i == 0 && field == "ProducerID"):
		return n.call(numbered[field], strconv.FormatInt(i, 10))
	case field == "FinalizedFeaturesEpoch" && i >= 0:
		return "<epoch>"
	case (field == "TotalBytes" || field == "UsableBytes") && i > 0:
		return "<bytes>"
	}
	if d := i - n.clock; d > -30*60_000 && d < 30*60_000 {
		switch {
		case d == 0:
			return "<now>"
		case d > 0:
			return fmt.Sprintf("<now+%d>", d)
		}
		return fmt.Sprintf("<now%d>", d)
	}
	if at := time.UnixMilli(i); at.After(n.started.Add(-10*time.Minute)) && at.Before(time.Now().Add(10*time.Minute)) {
		return "<time>"
	}
	return number(i)
}

var uuid = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

func (n *normaliser) text(field, s string) any {
	if s == "" {
		return s
	}
	switch {
	case strings.HasSuffix(field, "Message"):
		return "<message>"
	case field == "Documentation":
		return "<text>"
	case field == "ClusterID":
		return "<cluster>"
	case field == "Host" && s == n.host:
		return "<host>"
	case (field == "Dir" || field == "LogDir") && strings.Contains(s, "/"):
		return "<dir>"
	}
	if strings.Contains(s, n.suffix) {
		s = n.suffixed.ReplaceAllString(s, "$$$1")
	}
	if len(s) >= 36 {
		s = uuid.ReplaceAllStringFunc(s, func(u string) string { return n.call("uuid", u) })
	}
	return s
}

// ordered are the APIs whose lists have an order that counts for clients: for
// the others Kafka's own order comes out of hash maps.
var ordered = map[int16]bool{
	int16(kmsg.Fetch): true, int16(kmsg.FindCoordinator): true, int16(kmsg.DescribeTopicPartitions): true,
}

// orderedFields are lists whose order counts wherever they stand: synonyms come
// the strongest first.
var orderedFields = map[string]bool{"ConfigSynonyms": true}

// keyFields say what an element of a list is about, before anything else in it.
var keyFields = []string{"CoordinatorType", "Key", "ApiKey", "Name", "Group", "GroupID", "ResourceType", "ResourceName", "Topic", "TopicID", "Partition", "NodeID", "BaseOffset", "Offset", "InstanceID", "ClientID"}

// sort puts the lists of an answer in order, in place.
func (n *normaliser) sort(key int16, v any) {
	if ordered[key] {
		return
	}
	n.peek = true
	defer func() { n.peek = false }()
	n.sortLists(v)
}

func (n *normaliser) sortLists(v any) {
	switch v := v.(type) {
	case *object:
		for i, f := range v.values {
			if !orderedFields[v.names[i]] {
				n.sortLists(f)
			}
		}
	case list:
		for _, e := range v {
			n.sortLists(e)
		}
		if len(v) < 2 {
			return
		}
		if _, ok := v[0].(*object); !ok {
			return
		}
		keys := make(map[*object]string, len(v))
		for _, e := range v {
			keys[e.(*object)] = n.sortKey(e.(*object))
		}
		slices.SortStableFunc(v, func(a, b any) int {
			return strings.Compare(keys[a.(*object)], keys[b.(*object)])
		})
	}
}

func (n *normaliser) sortKey(o *object) string {
	var b strings.Builder
	part := func(name string, v any) {
		if i, ok := v.(json.Number); ok && len(i) < 20 {
			fmt.Fprintf(&b, "%020s\x00", i)
			return
		}
		b.WriteString(oneLine(n.value(name, v)) + "\x00")
	}
	for _, f := range keyFields {
		if v, ok := o.get(f); ok {
			part(f, v)
		}
	}
	for i, f := range o.names {
		part(f, o.values[i])
	}
	return b.String()
}
