package config

import (
	"fmt"
	"strings"
)

// Setting is one row of the table.
type Setting struct {
	Name    string // flag (with two dashes) and YAML key
	Kind    string // what a value looks like, for help: HOST:PORT, SIZE …
	Default string // as a user would write it; "" where Doc says what that means
	Kafka   string // Kafka's name of the same thing, "" for none
	Doc     string // one or two sentences, no full stop at the end

	set func(*Settings, string) error // nil for the broker configs
}

// Env is the setting's environment variable.
func (s *Setting) Env() string {
	return "FIRN_" + strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
}

// IsSet says whether this is the one setting that takes any number of
// NAME=VALUE, the broker configs; Inputs has them apart from the others.
func (s *Setting) IsSet() bool { return s.Kind == kindSet }

// Table lists all settings in the order of the documentation. It is not to be
// changed.
func Table() []Setting { return table }

const (
	kindAddr     = "HOST:PORT"
	kindSize     = "SIZE"
	kindDuration = "DURATION"
	kindInt      = "N"
	kindSet      = "NAME=VALUE"
)

// table is every setting there is. A setting is added when somebody has a
// reason to turn it, and only with the code that obeys it.
var table = []Setting{
	{"data", "DIR", "./firn-data", "log.dirs", "folder for everything that is kept on local disk; made if it is not there, used by one firn at a time",
		text(func(s *Settings) *string { return &s.Data }, notEmpty)},
	{"kafka", kindAddr, "127.0.0.1:9092", "listeners", "address that Kafka clients connect to; port 0 takes a free one",
		text(func(s *Settings) *string { return &s.Kafka }, listenAddr)},
	{"advertise", kindAddr, "", "advertised.listeners", "address that the broker tells clients to use, where they cannot reach the one of kafka (a container, a proxy, 0.0.0.0); default: the address of kafka",
		text(func(s *Settings) *string { return &s.Advertise }, advertiseAddr)},
	{"http", kindAddr, "127.0.0.1:9644", "", "address of /healthz, /readyz, /metrics and the admin calls of the command line; port 0 takes a free one",
		text(func(s *Settings) *string { return &s.HTTP }, listenAddr)},
	{"store", "URL", "", "", "object store for sealed segments: s3://BUCKET/PREFIX?region=R&endpoint=URL, gs://BUCKET/PREFIX, minio://HOST:PORT/BUCKET/PREFIX?tls=false or file:///DIR; default: the folder objects in the data folder",
		text(func(s *Settings) *string { return &s.Store }, nil)},
	{"node-id", kindInt, "1", "node.id", "number of this broker in its cluster; never change it for a data folder that is in use",
		integer(func(s *Settings, n int64) { s.NodeID = int32(n) }, 0, 1<<31-1)},
	{"seeds", "HOST:PORT,…", "", "", "peer addresses of the first 1, 3 or 5 brokers of a cluster, which keep its metadata; the same list for all of its brokers; default: none, a broker on its own",
		seeds},
	{"peer", kindAddr, "", "", "address where the other members of the cluster reach this broker; it is a member when seeds has that address, and a client of the members otherwise",
		text(func(s *Settings) *string { return &s.Peer }, advertiseAddr)},
	{"peer-client", kindAddr, "", "", "address where a member answers the brokers that are no members; default: peer's host and the port below peer's",
		text(func(s *Settings) *string { return &s.PeerClient }, advertiseAddr)},
	{"rack", "NAME", "", "broker.rack", "name of the zone that this broker stands in, told to clients; default: none",
		text(func(s *Settings) *string { return &s.Rack }, nil)},
	{"deployment", "NAME", "", "", "what this broker runs as, shown by firn cluster nodes: a name for those who roll out binaries and machines, at most 128 characters without spaces; default: none",
		text(func(s *Settings) *string { return &s.Deployment }, deploymentName)},
	{"set", kindSet, "", "", "broker config under Kafka's name (num.partitions=6, auto.create.topics.enable=false), or one of Firn's own limits (firn.max.topics=1000); may be given several times; docs/configuration.md lists them",
		nil},
	{"cache-bytes", kindSize, "2GiB", "", "local disk for parts of objects that were read back from the object store",
		size(func(s *Settings, n int64) { s.CacheBytes = n }, 16<<20, 1<<50)},
	{"cache-memory", kindSize, "256MiB", "", "memory for those parts that are being read; it is given up when nobody reads old records for a minute",
		size(func(s *Settings, n int64) { s.CacheMemory = n }, 16<<20, 1<<50)},
	{"upload-check", kindDuration, "5s", "", "time between two looks at which sealed segments wait for upload",
		duration(func(s *Settings) durationField { return &s.UploadCheck }, "100ms", "24h")},
	{"upload-wait", kindDuration, "60s", "", "how long a small segment waits for more records, or for others to share an object with, before it is uploaded, which saves requests; 0s uploads each at once",
		duration(func(s *Settings) durationField { return &s.UploadWait }, "0s", "24h")},
	{"log-level", "LEVEL", "info", "", "what is logged: debug, info, warn or error",
		text(func(s *Settings) *string { return &s.LogLevel }, oneOf("debug", "info", "warn", "error"))},
	{"log-format", "FORMAT", "text", "", "how it is logged, on standard error: text or json",
		text(func(s *Settings) *string { return &s.LogFormat }, oneOf("text", "json"))},
}

// names lists all settings' names.
func names() []string {
	out := make([]string, len(table))
	for i := range table {
		out[i] = table[i].Name
	}
	return out
}

// byKafkaName finds the setting that Kafka calls name.
func byKafkaName(name string) *Setting {
	for i := range table {
		if table[i].Kafka != "" && table[i].Kafka == name {
			return &table[i]
		}
	}
	return nil
}

func oneOf(words ...string) func(string) error {
	return func(v string) error {
		for _, w := range words {
			if v == w {
				return nil
			}
		}
		return fmt.Errorf("%q is not one of %s%s", v, strings.Join(words, ", "), didYouMean(v, words))
	}
}
