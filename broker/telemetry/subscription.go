package telemetry

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	defaultInterval = 5 * time.Minute
	minInterval     = 100 * time.Millisecond
	maxInterval     = time.Hour
)

// subscription is one client metrics config, read.
type subscription struct {
	name     string
	metrics  []string
	interval time.Duration
	match    map[string]*regexp.Regexp // by selector
	source   map[string]string         // that it was read from
}

func (s subscription) equal(o subscription) bool {
	return s.name == o.name && maps.Equal(s.source, o.source)
}

// parseAll reads configs, in the order of their names.
func parseAll(configs map[string]map[string]string) []subscription {
	var out []subscription
	for _, name := range slices.Sorted(maps.Keys(configs)) {
		if s, ok := parseSubscription(name, configs[name]); ok {
			out = append(out, s)
		}
	}
	return out
}

func parseSubscription(name string, c map[string]string) (subscription, bool) {
	s := subscription{name: name, interval: defaultInterval, source: maps.Clone(c)}
	if v, ok := c["interval.ms"]; ok {
		ms, err := strconv.ParseInt(strings.TrimSpace(v), 10, 32)
		s.interval = time.Duration(ms) * time.Millisecond
		if err != nil || s.interval < minInterval || s.interval > maxInterval {
			return s, false
		}
	}
	s.metrics = split(c["metrics"])
	for _, pair := range split(c["match"]) {
		selector, pattern, ok := strings.Cut(pair, "=")
		re, err := regexp.Compile("^(?:" + strings.TrimSpace(pattern) + ")$")
		if !ok || err != nil {
			return s, false
		}
		if s.match == nil {
			s.match = map[string]*regexp.Regexp{}
		}
		s.match[strings.TrimSpace(selector)] = re
	}
	return s, true
}

// split reads a list as Kafka's configs have them.
func split(v string) []string {
	var out []string
	for _, e := range strings.Split(v, ",") {
		if e = strings.TrimSpace(e); e != "" {
			out = append(out, e)
		}
	}
	return out
}

// matches says whether all of a subscription's patterns fit a client.
func (s subscription) matches(id [16]byte, c Client) bool {
	for selector, re := range s.match {
		var v string
		switch selector {
		case "client_instance_id":
			v = instanceText(id)
		case "client_id":
			v = c.ID
		case "client_software_name":
			v = c.SoftwareName
		case "client_software_version":
			v = c.SoftwareVersion
		case "client_source_address":
			v = c.Host
		case "client_source_port":
			v = c.Port
		default:
			return false
		}
		if !re.MatchString(v) {
			return false
		}
	}
	return true
}
