package terraform

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
)

// plan is what terraform show -json says of a plan.
type plan struct {
	Planned struct {
		Root module `json:"root_module"`
	} `json:"planned_values"`
	Changes []struct {
		Address string `json:"address"`
		Type    string `json:"type"`
		Change  struct {
			Actions []string `json:"actions"`
			Before  object   `json:"before"`
			After   object   `json:"after"`
			Unknown object   `json:"after_unknown"`
		} `json:"change"`
	} `json:"resource_changes"`
}

type module struct {
	Resources []resource `json:"resources"`
	Children  []module   `json:"child_modules"`
}

type resource struct {
	Address string `json:"address"`
	Mode    string `json:"mode"`
	Type    string `json:"type"`
	Name    string `json:"name"`
	Values  object `json:"values"`
}

// object is a JSON object; a value that the plan does not know is not there.
type object map[string]any

// resources gives every managed resource that will be there.
func (p *plan) resources() []resource {
	var all []resource
	var walk func(m module)
	walk = func(m module) {
		for _, r := range m.Resources {
			if r.Mode == "managed" {
				all = append(all, r)
			}
		}
		for _, c := range m.Children {
			walk(c)
		}
	}
	walk(p.Planned.Root)
	return all
}

func (p *plan) ofType(kind string) []resource {
	return slices.DeleteFunc(p.resources(), func(r resource) bool { return r.Type != kind })
}

// notKept are arguments that moto 5.2 takes and does not give back, so that each
// plan sets them again.
var notKept = map[string][]string{
	"aws_autoscaling_group":               {"instance_maintenance_policy", "capacity_reservation_specification"},
	"aws_vpc_security_group_ingress_rule": {"description"},
	"aws_vpc_security_group_egress_rule":  {"description"},
}

// changed gives the addresses that something happens to, with what.
func (p *plan) changed() map[string]string {
	out := map[string]string{}
	for _, c := range p.Changes {
		what := strings.Join(c.Change.Actions, "+")
		if what == "no-op" || what == "read" {
			continue
		}
		if what == "update" {
			var args []string
			for k := range c.Change.Before {
				same := allKnown(c.Change.Unknown[k]) && reflect.DeepEqual(c.Change.Before[k], c.Change.After[k])
				if !same && !slices.Contains(notKept[c.Type], k) {
					args = append(args, k)
				}
			}
			if len(args) == 0 {
				continue
			}
			slices.Sort(args)
			what += " of " + strings.Join(args, ", ")
		}
		out[c.Address] = what
	}
	return out
}

// allKnown says whether nothing in a value is unknown: its mark is false, or a
// list or map of such marks.
func allKnown(mark any) bool {
	switch m := mark.(type) {
	case bool:
		return !m
	case []any:
		return !slices.ContainsFunc(m, func(x any) bool { return !allKnown(x) })
	case map[string]any:
		for _, x := range m {
			if !allKnown(x) {
				return false
			}
		}
	}
	return true
}

// counts gives how many there are of each kind.
func (p *plan) counts() map[string]int {
	n := map[string]int{}
	for _, r := range p.resources() {
		n[r.Type]++
	}
	return n
}

// text gives a value of strings and keys by its path: "rule", "0", "status".
func (o object) at(path ...string) any {
	var v any = map[string]any(o)
	for _, p := range path {
		switch x := v.(type) {
		case map[string]any:
			v = x[p]
		case []any:
			if p != "0" || len(x) == 0 {
				return nil
			}
			v = x[0]
		default:
			return nil
		}
	}
	return v
}

func (o object) text(path ...string) string {
	s, _ := o.at(path...).(string)
	return s
}

func (o object) is(path ...string) bool {
	b, _ := o.at(path...).(bool)
	return b
}

func (o object) list(path ...string) []object {
	all, _ := o.at(path...).([]any)
	var out []object
	for _, v := range all {
		if m, ok := v.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

func (o object) texts(path ...string) []string {
	all, _ := o.at(path...).([]any)
	var out []string
	for _, v := range all {
		if s, ok := v.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// policyDocument is a policy of IAM. Action and Resource are one or several.
type policyDocument struct {
	Statement []struct {
		Sid       string
		Effect    string
		Action    oneOrMore
		Resource  oneOrMore
		Condition map[string]map[string]any
	}
}

type oneOrMore []string

func (o *oneOrMore) UnmarshalJSON(data []byte) error {
	var one string
	if err := json.Unmarshal(data, &one); err == nil {
		*o = oneOrMore{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(o))
}
