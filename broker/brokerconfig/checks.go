package brokerconfig

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/firnlog/firn/broker/topicconfig"
)

// checkType says whether v is of type t.
func checkType(t topicconfig.Type, v string) error {
	var err error
	switch t {
	case topicconfig.Boolean:
		if !strings.EqualFold(v, "true") && !strings.EqualFold(v, "false") {
			return fmt.Errorf("%q is neither true nor false", v)
		}
	case topicconfig.Short:
		_, err = strconv.ParseInt(v, 10, 16)
	case topicconfig.Int:
		_, err = strconv.ParseInt(v, 10, 32)
	case topicconfig.Long:
		_, err = strconv.ParseInt(v, 10, 64)
	case topicconfig.Double:
		var f float64
		if f, err = strconv.ParseFloat(v, 64); err == nil && (math.IsNaN(f) || math.IsInf(f, 0)) {
			return fmt.Errorf("%q is not finite", v)
		}
	}
	if err != nil {
		return fmt.Errorf("%q is not a number of type %v", v, t)
	}
	return nil
}

// normal spells a valid value as the table's defaults are spelled.
func (d *Definition) normal(v string) string {
	v = strings.TrimSpace(v)
	switch d.Type {
	case topicconfig.Boolean:
		return strings.ToLower(v)
	case topicconfig.Short, topicconfig.Int, topicconfig.Long:
		n, _ := strconv.ParseInt(v, 10, 64) // valid
		return strconv.FormatInt(n, 10)
	case topicconfig.List:
		return strings.Join(topicconfig.SplitList(v), ",")
	}
	if d.Topic != "" {
		return topicconfig.Canonical(d.Topic, v)
	}
	return v
}

func atLeast(least int64) func(string) error { return between(least, math.MaxInt64) }

func between(least, most int64) func(string) error {
	return func(v string) error {
		n, err := strconv.ParseInt(v, 10, 64)
		switch {
		case err != nil:
			return err
		case n < least:
			return fmt.Errorf("%d is too small; the least is %d", n, least)
		case n > most:
			return fmt.Errorf("%d is too large; the most is %d", n, most)
		}
		return nil
	}
}

// above takes numbers greater than limit.
func above(limit float64) func(string) error {
	return func(v string) error {
		if f, err := strconv.ParseFloat(v, 64); err != nil || f <= limit {
			return fmt.Errorf("%s is not above %v", v, limit)
		}
		return nil
	}
}

// asTopic checks a value as the topic config does whose default it is.
func asTopic(topic string) func(string) error {
	return func(v string) error {
		err := topicconfig.Check(topic, v)
		if te, ok := err.(*topicconfig.Error); ok {
			return fmt.Errorf("%s", te.Reason)
		}
		return err
	}
}

// checkIdle takes any number of milliseconds but 0, which would close every
// connection at once.
func checkIdle(v string) error {
	if n, err := strconv.ParseInt(v, 10, 64); err != nil || n == 0 {
		return errors.New("must not be 0; give a number below 0 for no limit")
	}
	return nil
}

// checkRetention takes any time but 0, after which every topic would be empty.
func checkRetention(v string) error {
	if n, err := strconv.ParseInt(v, 10, 64); err != nil || n == 0 {
		return errors.New("must not be 0; give a number below 0 for no limit")
	}
	return nil
}

func checkOverrides(v string) error {
	_, err := parseOverrides(v)
	return err
}

// parseOverrides reads "ADDRESS:N,ADDRESS:N". An IPv6 address may stand in
// brackets.
func parseOverrides(v string) (map[netip.Addr]int, error) {
	out := map[netip.Addr]int{}
	for _, item := range topicconfig.SplitList(v) {
		at := strings.LastIndexByte(item, ':')
		if at < 0 {
			return nil, fmt.Errorf("%q is not ADDRESS:NUMBER", item)
		}
		host := strings.Trim(strings.TrimSpace(item[:at]), "[]")
		addr, err := netip.ParseAddr(host)
		if err != nil {
			return nil, fmt.Errorf("%q is not an IP address; names of hosts are not looked up", host)
		}
		n, err := strconv.ParseInt(strings.TrimSpace(item[at+1:]), 10, 32)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%q: %q is not a number of connections", item, item[at+1:])
		}
		out[addr.Unmap()] = int(n)
	}
	return out, nil
}

// EditList appends the items of change to a list's value, or takes them out of
// it. What is there already is not appended again.
func EditList(value, change string, appendItems bool) string {
	list, seen := topicconfig.SplitList(value), map[string]bool{}
	if !appendItems {
		for _, item := range topicconfig.SplitList(change) {
			seen[item] = true
		}
		return strings.Join(slices.DeleteFunc(list, func(item string) bool { return seen[item] }), ",")
	}
	for _, item := range list {
		seen[item] = true
	}
	for _, item := range topicconfig.SplitList(change) {
		if !seen[item] {
			seen[item] = true
			list = append(list, item)
		}
	}
	return strings.Join(list, ",")
}
