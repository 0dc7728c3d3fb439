package broker

import (
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/firnlog/firn/broker/brokerconfig"
	"github.com/firnlog/firn/broker/group"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metastore"
)

// configs are the broker configs in effect: what was given at the start, and
// what the metadata says was set since. update is called from one goroutine;
// values from any.
type configs struct {
	log    *slog.Logger
	static map[string]string
	now    atomic.Pointer[brokerconfig.Values]
	told   string // the stored values that were ignored and told last
}

// newConfigs checks what was given at the start. Errors name the config.
func newConfigs(given map[string]string, log *slog.Logger) (*configs, error) {
	c := &configs{log: log, static: maps.Clone(given)}
	if c.static == nil {
		c.static = map[string]string{}
	}
	v, err := brokerconfig.Resolve(c.static, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("broker config %w", err)
	}
	c.now.Store(v)
	return c, nil
}

// identify adds what settings say under Kafka's names, for people who look.
func (c *configs) identify(cfg Config, listens string, me metastore.Broker) {
	id := strconv.Itoa(int(cfg.NodeID))
	c.static["broker.id"], c.static["node.id"] = id, id
	c.static["listeners"] = "PLAINTEXT://" + listens
	c.static["advertised.listeners"] = "PLAINTEXT://" + me.Host + ":" + strconv.Itoa(int(me.Port))
	c.static["log.dirs"] = filepath.Join(cfg.DataDir, "logs")
	if cfg.Rack != "" {
		c.static["broker.rack"] = cfg.Rack
	}
}

func (c *configs) values() *brokerconfig.Values { return c.now.Load() }

// update takes in what img says. Values that this version does not take
// (another one stored them) are ignored, and told once.
func (c *configs) update(img *metastore.Image) *brokerconfig.Values {
	v, ignored, err := brokerconfig.ResolveStored(c.static, nil, nil)
	if err != nil {
		c.log.Error("broker configs cannot be put together; those of before stay", "error", err)
		return c.values()
	}
	var lines []string
	for _, e := range ignored {
		lines = append(lines, e.Error())
	}
	slices.Sort(lines)
	if told := strings.Join(lines, "\n"); told != c.told {
		c.told = told
		for _, line := range lines {
			c.log.Warn("a broker config that was set at run time is ignored; set it anew or delete it", "config", line)
		}
	}
	c.now.Store(v)
	return v
}

// wireConfig are the limits as package wire takes them.
func wireConfig(v *brokerconfig.Values) wire.Config {
	n := &v.Network
	queued := n.QueuedBytes
	if queued < 1 {
		queued = 1 << 62
	}
	return wire.Config{
		MaxFrameBytes:    n.MaxRequestBytes,
		MaxConnections:   max(1, n.MaxConnections),
		MaxInflightBytes: queued,
		IdleTimeout:      n.MaxIdle,
	}
}

// groupConfig are the limits and times as package group takes them.
func groupConfig(v *brokerconfig.Values, offsetsPartitions int32) group.Config {
	g := &v.Groups
	cfg := group.Config{
		OffsetsPartitions:     offsetsPartitions,
		InitialRebalanceDelay: g.InitialRebalanceDelay,
		MinSessionTimeout:     g.MinSession,
		MaxSessionTimeout:     g.MaxSession,
		MaxSize:               g.MaxSize,
		MaxGroups:             g.MaxGroups,
		OffsetsRetention:      g.OffsetsRetention,
		RetentionCheck:        g.OffsetsCheck,
		MaxMetadataBytes:      g.MaxMetadataBytes,
	}
	// Zero takes package group's default; these two mean zero by it.
	if cfg.InitialRebalanceDelay == 0 {
		cfg.InitialRebalanceDelay = -1
	}
	if cfg.MaxMetadataBytes == 0 {
		cfg.MaxMetadataBytes = -1
	}
	return cfg
}
