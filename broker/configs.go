package broker

import (
	"fmt"
	"log/slog"
	"maps"
	"math"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/firnlog/firn/broker/brokerconfig"
	"github.com/firnlog/firn/broker/group"
	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metastore"
)

// configs are the broker configs in effect: what was given at the start, and
// what the metadata says was set since. update is called from one goroutine;
// values from any.
type configs struct {
	log    *slog.Logger
	static map[string]string
	id     string // this broker's, as it names its configs
	now    atomic.Pointer[brokerconfig.Values]

	all, mine map[string]string // what was set for all brokers and for this one; belong to update
}

// The metastore counts what there is: firn_metastore_topics, _partitions.
var (
	maxTopics     = metrics.GetOrCreateGauge("firn_broker_max_topics", nil)
	maxPartitions = metrics.GetOrCreateGauge("firn_broker_max_partitions", nil)
)

// newConfigs checks what was given at the start. Errors name the config.
func newConfigs(given map[string]string, log *slog.Logger) (*configs, error) {
	c := &configs{log: log, static: maps.Clone(given)}
	if c.static == nil {
		c.static = map[string]string{}
	}
	if _, err := brokerconfig.Resolve(c.static, nil, nil); err != nil {
		return nil, fmt.Errorf("broker config %w", err)
	}
	return c, nil
}

// identify adds what settings say under Kafka's names, for people who look.
func (c *configs) identify(cfg Config, listens string, me metastore.Broker) {
	c.id = strconv.Itoa(int(cfg.NodeID))
	c.static["broker.id"], c.static["node.id"] = c.id, c.id
	c.static["listeners"] = "PLAINTEXT://" + listens
	c.static["advertised.listeners"] = "PLAINTEXT://" + me.Host + ":" + strconv.Itoa(int(me.Port))
	c.static["log.dirs"] = filepath.Join(cfg.DataDir, "logs")
	if dir, err := filepath.Abs(c.static["log.dirs"]); err == nil {
		c.static["log.dirs"] = dir
	}
	if cfg.Rack != "" {
		c.static["broker.rack"] = cfg.Rack
	}
}

func (c *configs) values() *brokerconfig.Values { return c.now.Load() }

// update takes in what img says. Values that this version does not take
// (another one stored them) are ignored, and told once. Values that did not
// change are the same pointer.
func (c *configs) update(img *metastore.Image) *brokerconfig.Values {
	all := img.Configs[metastore.ConfigResource{Type: metastore.BrokerConfigs}]
	mine := img.Configs[metastore.ConfigResource{Type: metastore.BrokerConfigs, Name: c.id}]
	if c.now.Load() != nil && maps.Equal(all, c.all) && maps.Equal(mine, c.mine) {
		return c.values()
	}
	v, ignored, err := brokerconfig.ResolveStored(c.static, all, mine)
	if err != nil {
		c.log.Error("broker configs cannot be put together; those of before stay", "error", err)
		return c.values()
	}
	c.all, c.mine = all, mine
	for _, e := range ignored {
		c.log.Warn("a broker config that was set at run time is ignored; set it anew or delete it", "config", e)
	}
	maxTopics.Set(float64(v.Topics.MaxTopics))
	maxPartitions.Set(float64(v.Topics.MaxPartitions))
	c.now.Store(v)
	return v
}

// zero writes a limit's 0 for packages that take 0 for their default and a
// negative number for what 0 means here.
func zero[T int | int64 | time.Duration](n T) T {
	if n == 0 {
		return -1
	}
	return n
}

// wireConfig are the limits as package wire takes them.
func wireConfig(v *brokerconfig.Values) wire.Config {
	n := &v.Network
	return wire.Config{
		MaxFrameBytes:       n.MaxRequestBytes,
		MaxConnections:      n.MaxConnections,
		MaxConnectionsPerIP: zero(n.MaxPerIP),
		MaxConnectionsOf:    n.PerIPOverrides,
		MaxConnectionRate:   n.MaxConnectionRate,
		MaxInflightBytes:    zero(n.QueuedBytes),
		SendBuffer:          n.SendBuffer,
		IdleTimeout:         n.MaxIdle,
	}
}

// groupConfig are the limits and times as package group takes them.
func groupConfig(v *brokerconfig.Values, offsetsPartitions int32) group.Config {
	g := &v.Groups
	return group.Config{
		OffsetsPartitions:     offsetsPartitions,
		InitialRebalanceDelay: zero(g.InitialRebalanceDelay),
		MinSessionTimeout:     g.MinSession,
		MaxSessionTimeout:     g.MaxSession,
		MaxSize:               g.MaxSize,
		MaxGroups:             g.MaxGroups,
		MaxGroupBytes:         g.MaxGroupBytes,
		MaxGroupOffsets:       g.MaxGroupOffsets,
		MaxBytes:              g.MaxBytes,
		OffsetsRetention:      g.OffsetsRetention,
		RetentionCheck:        g.OffsetsCheck,
		MaxMetadataBytes:      zero(g.MaxMetadataBytes),
	}
}

// cleanerConfig are the means of compaction as package partition takes them.
func cleanerConfig(v *brokerconfig.Values) partition.CleanerConfig {
	c := v.Cleaner
	cfg := partition.CleanerConfig{Threads: c.Threads, KeyBytes: c.KeyBytes, BytesPerSecond: c.BytesPerSecond, Backoff: c.Backoff}
	if cfg.BytesPerSecond == math.MaxFloat64 {
		cfg.BytesPerSecond = 0 // no limit
	}
	return cfg
}
